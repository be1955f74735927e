"""Documents that people write: TOML in, a frozen value out, or one line that says what is wrong."""

import difflib
import hashlib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)
from pydantic_core import ErrorDetails

from cohortium.common.errors import DocumentError, ProtocolError


class Document(BaseModel):
    """Read once, never changed; an unknown key, or "false" for false, is an error."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class GrownDocument(Document):
    """A document that has gained keys since studies were approved with it; `later` names those.

    The canonical form leaves out a later key that is at its default, so that what was approved
    without the key keeps its digest. Two documents still never share a canonical form.
    """

    later: ClassVar[frozenset[str]]

    @model_serializer(mode="wrap")
    def _as_before(
        self, dump: SerializerFunctionWrapHandler, info: SerializationInfo
    ) -> dict[str, Any]:
        values: dict[str, Any] = dump(self)
        if info.context is not CANONICAL:
            return values
        return {key: value for key, value in values.items() if not self._is_new(key)}

    def _is_new(self, key: str) -> bool:
        default = type(self).model_fields[key].default
        return key in self.later and getattr(self, key) == default


CANONICAL = {"form": "canonical"}  # by identity: what a dump is for

D = TypeVar("D", bound=BaseModel)


def load(path: Path, kind: type[D]) -> D:
    """Read and check one TOML document.

    Raises:
        DocumentError: unreadable, not TOML, or not what `kind` allows; names file and key.
    """
    return parse(read_toml(path), kind, str(path))


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file, or say in one line why that is impossible."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise DocumentError(f"{path}: no such file; check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise DocumentError(f"{path}: cannot be read ({reason})") from None
    except tomllib.TOMLDecodeError as error:
        raise DocumentError(f"{path}: not valid TOML: {error}") from None


def parse(values: Mapping[str, Any], kind: type[D], source: str) -> D:
    """Check already parsed values; `source` is what an error calls the document.

    Lists become tuples where the document wants a tuple, as TOML and JSON know only lists.
    """
    try:
        return kind.model_validate(_tuples(values))
    except ValidationError as error:
        raise DocumentError(f"{source}: {_explain(error, kind)}") from None


def parse_json(raw: bytes | memoryview, kind: type[D], source: str) -> D:
    """Check bytes that came from a peer.

    Raises:
        ProtocolError: not JSON, or not what `kind` allows; names fields, never their values.
    """
    try:
        return kind.model_validate_json(bytes(raw))
    except ValidationError as error:
        fields = sorted(
            {".".join(str(p) for p in e["loc"]) for e in error.errors(include_url=False)}
        )
        names = one_line(", ".join(fields), limit=200)  # an unknown field is named by the peer
        raise ProtocolError(f"{source}: not as the protocol says: {names}") from None


def canonical(document: BaseModel) -> bytes:
    """The one byte form of a document: JSON, sorted keys, no spaces, UTF-8.

    Keys that came later than the first release are there only where they say something.
    """
    values = document.model_dump(mode="json", context=CANONICAL)
    text = json.dumps(
        values, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def digest(document: BaseModel) -> str:
    """SHA-256 of the canonical form, in hex."""
    return hashlib.sha256(canonical(document)).hexdigest()


def one_line(text: str, limit: int) -> str:
    """The text on one line of at most so many characters, without invisible ones."""
    shown = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(shown.split())[:limit]


def nearest(word: str, known: list[str]) -> str:
    """Return `; did you mean "x"?`, or the known words where none is near."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f'; did you mean "{close[0]}"?'
    return f"; known here: {', '.join(sorted(known))}" if known else ""


def _tuples(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _tuples(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_tuples(item) for item in value)
    return value


def _explain(error: ValidationError, kind: type[BaseModel]) -> str:
    """One line for the first thing wrong, and how many more there are.

    A misspelt key comes first: what is then missing is only its consequence.
    """
    found = error.errors(include_url=False)
    first, *others = sorted(found, key=lambda detail: detail["type"] != "extra_forbidden")
    line = _explain_one(first, kind)
    return f"{line} (and {len(others)} more)" if others else line


def _explain_one(detail: ErrorDetails, kind: type[BaseModel]) -> str:
    path, models = _follow(kind, detail["loc"])
    where = ".".join(path)
    if detail["type"] == "extra_forbidden":
        known = {key: None for model in models for key in model.model_fields}
        return f'unknown key "{where}"{nearest(path[-1], list(known))}'
    if detail["type"] == "missing":
        return f'"{where}" is missing and has no default'
    if detail["type"] == "union_tag_invalid":
        given = detail["ctx"]
        tags = [word.strip("'") for word in given["expected_tags"].split(", ")]
        key = given["discriminator"].strip("'")
        said = one_line(str(given["tag"]), limit=60)
        return f'{where}.{key}: there is no "{said}"{nearest(said, tags)}'
    message = detail["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


def _follow(
    kind: type[BaseModel], loc: tuple[int | str, ...]
) -> tuple[list[str], list[type[BaseModel]]]:
    """A place as people write it, and the documents that its last key may belong to.

    Where a place has one of several documents, the word that tells them apart (its `kind`) leads to
    one of them and is not part of what people write; a key of a mapping or an index leads nowhere.
    """
    path, models, owners = list[str](), [kind], [kind]
    for part in loc:
        told_apart = [model for model in models if len(models) > 1 and part in _kinds(model)]
        if told_apart:
            models = owners = told_apart
            continue
        if part != "[key]":
            path.append(str(part))
        owners = models
        inside = [model.model_fields[str(part)] for model in models if part in model.model_fields]
        models = [m for field in inside for m in _models_in(field.annotation)] or models
    return path, owners


def _kinds(model: type[BaseModel]) -> tuple[Any, ...]:
    fields = (model.model_fields.get(key) for key in ("kind", "name"))
    return tuple(word for field in fields if field for word in get_args(field.annotation))


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]
