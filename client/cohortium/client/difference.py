"""What changed between two versions of a study, in the words of the person who has to decide."""

from collections.abc import Iterator, Mapping
from typing import Any

from cohortium.common.document import Document
from cohortium.common.study import Study

WORDS = {
    ("privacy", "epsilon"): "epsilon",
    ("privacy", "delta"): "delta",
    ("privacy", "mechanism"): "privacy",
    ("training", "rounds"): "rounds",
    ("purpose", "text"): "purpose",
    ("purpose", "legal_basis"): "legal basis",
    ("sites", "evaluate_only"): "sites that only evaluate",
}


def difference(old: Study, new: Study) -> tuple[str, ...]:
    """One short line for each change; empty for the same study.

    Sets come first (columns read, sites), then every other setting by its key in study.toml.
    """
    lines = [
        *_sets("column", old.columns_read, new.columns_read),
        *_sets("site", old.sites.names, new.sites.names),
        *_order("column", old.data.features, new.data.features),
        *_order("site", old.sites.names, new.sites.names),
    ]
    if start(old) != start(new):
        lines.append(f"starts from {start(new)}")
    for section in Study.model_fields:
        before, after = getattr(old, section), getattr(new, section)
        if isinstance(before, Document) and isinstance(after, Document) and section != "continues":
            lines += _settings(section, before, after)
    return tuple(lines)


def start(study: Study) -> str:
    """The model that a study's first round starts from, in words."""
    if study.transfer.start is not None:
        return f"parameters of a file, SHA-256 {study.transfer.start[:16]}..."
    if study.continues is None:
        return "a fresh model"
    return f"round {study.continues.round} of {study.continues.name}"


def _sets(noun: str, old: tuple[str, ...], new: tuple[str, ...]) -> Iterator[str]:
    for sign, names in (("+", set(new) - set(old)), ("-", set(old) - set(new))):
        if names:
            plural = noun if len(names) == 1 else f"{noun}s"
            yield f"{sign}{len(names)} {plural} ({', '.join(sorted(names))})"


def _order(noun: str, old: tuple[str, ...], new: tuple[str, ...]) -> Iterator[str]:
    if old != new and set(old) == set(new):
        yield f"{noun}s in another order"


def _settings(section: str, old: Document, new: Document) -> Iterator[str]:
    if section == "data_model":
        if old != new:
            yield "the schema changed"
        return
    if type(old) is not type(new):  # the task: another kind of outcome has other keys
        yield f"{section}.kind {getattr(old, 'kind', '')} -> {getattr(new, 'kind', '')}"
        return
    for key in type(new).model_fields:
        if (section, key) in (("data", "features"), ("sites", "names")):
            continue
        before, after = getattr(old, key), getattr(new, key)
        if before != after:
            word = WORDS.get((section, key), f"{section}.{key}")
            yield f"{word} {_text(before)} -> {_text(after)}"


def _text(value: Any) -> str:
    text = _words(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _words(value: Any) -> str:
    if value is None or value == () or value == {}:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_words(item)}" for key, item in value.items())
    if isinstance(value, tuple):
        return ", ".join(map(_words, value))
    return str(value)
