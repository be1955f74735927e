"""What leaves with a released model: its file, its card, and the signed release."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files as files_of
from pathlib import Path
from typing import Any

from cohortium.common import arrays
from cohortium.common.audit.events import Actor, Thing
from cohortium.common.document import digest
from cohortium.common.errors import UsageError
from cohortium.common.metrics.performance import performance
from cohortium.common.models.building import released_module
from cohortium.common.using.checked import checked_onnx
from cohortium.common.using.described import (
    CARD_FILE,
    LOADER_FILE,
    MODEL_FILE,
    ONNX_FILE,
    RELEASE_FILE,
    STUDY_FILE,
    described,
    written,
)
from cohortium.common.using.sealed import EXPORT_CONTEXT, Exported, sha256_of
from cohortium.server.adapters_file import adapters
from cohortium.server.gates import final_evaluations
from cohortium.server.model_card import Facts, card
from cohortium.server.model_file import final_vector, pieces
from cohortium.server.opened import Opened
from cohortium.server.release import Dossier, Judged, require_released
from cohortium.server.signed import CONTEXTS, Disposition, Kept, Released

HOW = (
    "An Ed25519 signature (hex) is over a context line and a document as JSON with sorted keys, "
    "without spaces, in UTF-8. The key is the coordinator's: compare its fingerprint with somebody "
    "who knows it. The document of `export` names the signature of `release` and the SHA-256 of "
    "each file beside this one: compare with `sha256sum`. `cohortium predict` does all of it."
)


def export(
    dossier: Dossier, judged: Sequence[Judged], opened: Opened, actor: Actor, out: Path
) -> tuple[tuple[Path, ...], str]:
    """Write a released model into a directory; the files, and the event that was logged first.

    Raises:
        RefusedError: it is not released, or what was released has changed.
        UsageError: another model lies there.
    """
    kept = require_released(dossier, judged, opened.signatures)
    contents: dict[str, Iterable[bytes]] = {
        MODEL_FILE: pieces(dossier.row, opened.store),
        CARD_FILE: [],
        RELEASE_FILE: [],
    }
    beside: dict[str, Iterable[bytes]] = {
        CARD_FILE: [model_card(dossier, judged, kept, opened).encode()],
        **_usable(dossier, opened),
        **adapters(dossier.row, opened.store),
    }
    listed = _exported(dossier, kept, beside)
    contents |= beside
    contents[RELEASE_FILE] = [_release(judged, kept, listed, dossier, opened)]
    present = out / MODEL_FILE
    if present.exists() and sha256_of(present) != dossier.model.sha256:
        raise UsageError(f"{present} is another model and is not overwritten: give another --out")
    out.mkdir(parents=True, exist_ok=True)
    event = opened.log.append(
        "model.downloaded",
        actor=actor,
        study=dossier.row.digest,
        obj=(
            Thing(t="model", h=f"sha256:{dossier.model.sha256}", bytes=dossier.model.bytes),
            Thing(t="export", h=f"sha256:{digest(listed)}"),
        ),
        detail={"recipient": actor.id, "file": MODEL_FILE, "format": "safetensors"},
    )
    for name in sorted(contents, key=lambda one: one == RELEASE_FILE):  # it tells of the others
        draft = out / f".{name}.draft"
        with draft.open("wb") as file:
            file.writelines(contents[name])
        os.replace(draft, out / name)
    return tuple(out / name for name in contents), event.id


def _usable(dossier: Dossier, opened: Opened) -> dict[str, Iterable[bytes]]:
    """What it takes to use the model: its study, its ONNX graph where it has one, a loader."""
    row = dossier.row
    facts = described(row.study, opened.store.statistics(row.digest))
    files: dict[str, Iterable[bytes]] = {STUDY_FILE: [written(facts)]}
    module = released_module(row.study)
    arrays.load_into(module, final_vector(row, opened.store))
    graph = checked_onnx(row.study, module, facts.statistics)
    if graph is not None:
        loader = files_of("cohortium.common.using") / "loader.py"
        files |= {ONNX_FILE: [graph], LOADER_FILE: [loader.read_bytes()]}
    return files


def model_card(
    dossier: Dossier, judged: Sequence[Judged], kept: Kept[Released], opened: Opened
) -> str:
    """The card of a released model, Markdown."""
    return card(_facts(dossier, judged, kept, opened))


def _exported(
    dossier: Dossier, kept: Kept[Released], beside: Mapping[str, Iterable[bytes]]
) -> Exported:
    """The list of what leaves: the model as it was signed, and each file beside it."""
    digests = {name: hashlib.sha256(b"".join(parts)).hexdigest() for name, parts in beside.items()}
    return Exported(
        study=dossier.row.digest,
        model=dossier.model.sha256,
        release=kept.signature.hex(),
        files={MODEL_FILE: dossier.model.sha256, **digests},
    )


def _facts(
    dossier: Dossier, judged: Sequence[Judged], kept: Kept[Released], opened: Opened
) -> Facts:
    study, digest = dossier.row.study, dossier.row.digest
    rounds = opened.store.rounds(digest)
    shown = final_evaluations(study, rounds)
    tallies = {name: shown[name].overall for name in study.sites.names if name in shown}
    return Facts(
        dossier=dossier,
        rounds=rounds,
        consents=opened.store.consents(digest),
        performance=performance(tallies, study.evaluation.thresholds) if tallies else (),
        judged=judged,
        release=kept,
        fingerprint=opened.signatures.public.fingerprint,
    )


def _release(
    judged: Sequence[Judged],
    kept: Kept[Released],
    listed: Exported,
    dossier: Dossier,
    opened: Opened,
) -> bytes:
    """release.json; of a blinded study without the dispositions, as they may name a site."""
    blinded = dossier.row.study.evaluation.blinded
    answers = [one.disposition for one in judged if one.disposition and not one.open]
    document = {
        "how_to_verify": HOW,
        "coordinator": opened.config.name,
        "key": opened.signatures.public.text,
        "fingerprint": opened.signatures.public.fingerprint,
        "release": _signed(kept),
        "export": {
            "context": EXPORT_CONTEXT.decode(),
            "document": listed.model_dump(mode="json"),
            "signature": opened.signatures.sign_export(listed).hex(),
        },
        "dispositions": "blinded" if blinded else [_signed(one) for one in answers],
    }
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


def _signed(kept: Kept[Disposition] | Kept[Released]) -> dict[str, Any]:
    return {
        "context": CONTEXTS[type(kept.document)].decode(),
        "document": json.loads(kept.raw),
        "signature": kept.signature.hex(),
        "event": kept.event,
    }
