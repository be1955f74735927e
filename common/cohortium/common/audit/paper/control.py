"""One demand of a rule: what this system emits for it, where that lies, and what remains to do.

`files` are patterns; a row names the files of the bundle that fit, never one that is not there.
`actions` are events that show it; a row says how many the bundle shows.
"""

import functools
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from importlib.resources import files as resources
from typing import Annotated

from pydantic import Field

from cohortium.common.audit.evidence import Evidence
from cohortium.common.document import Document, parse

# Written after everything else, by whoever seals the bundle: always there.
SEALED = (
    "log/checkpoint",
    "log/events.jsonl",
    "log/leaf-hashes.bin",
    "log/seal.json",
    "manifest.json",
)
NO_FILE = "no file in this bundle"
MISSING = "No file in this bundle shows this; also:"
NO_EVENT = "no such event is in this bundle"


class Control(Document):
    """As controls.toml has it; `residual` is never empty: no program fulfils a rule by itself."""

    framework: str
    reference: str
    title: str
    residual: Annotated[str, Field(min_length=3)]
    emits: str = "nothing"
    files: tuple[str, ...] = ()
    actions: str = ""


@functools.cache
def controls() -> tuple[Control, ...]:
    """Every demand that is known, rule by rule."""
    text = resources(__package__).joinpath("controls.toml").read_text(encoding="utf-8")
    return tuple(
        parse({"framework": name, "reference": key, **values}, Control, f"controls.toml: {key}")
        for name, rows in tomllib.loads(text).items()
        for key, values in rows.items()
    )


def of(framework: str) -> tuple[Control, ...]:
    """Those of one rule."""
    return tuple(one for one in controls() if one.framework == framework)


def matching(files: Iterable[str], patterns: Iterable[str]) -> tuple[str, ...]:
    """The bundle's files that fit any of the patterns, in order."""
    known = sorted({*files, *SEALED})
    wanted = tuple(patterns)
    return tuple(path for path in known if any(fnmatchcase(path, p) for p in wanted))


def shown(control: Control, files: Iterable[str]) -> str:
    """The files for a cell; a control that expects none has none."""
    found = matching(files, control.files)
    return "; ".join(found) if found else NO_FILE if control.files else ""


def counted(control: Control, actions: Mapping[str, int]) -> str:
    """How many events show it: `3 study.approved, 1 study.rejected`."""
    if not control.actions:
        return ""
    found = [f"{actions[name]} {name}" for name in control.actions.split() if actions.get(name)]
    return ", ".join(found) or NO_EVENT


def remaining(control: Control, files: Iterable[str]) -> str:
    """What a person still has to do; also that a file which should be there is not."""
    if control.files and not matching(files, control.files):
        return f"{MISSING} {control.residual}"
    return control.residual


def tally(evidence: Evidence) -> Mapping[str, int]:
    """How often each action is among the events that may be shown."""
    return Counter(event.action for event in evidence.events)
