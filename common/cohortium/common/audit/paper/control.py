"""One demand of a rule: what this system emits for it, where that lies, and what remains to do.

`files` are patterns; a row names the files of the bundle that fit, never one that is not there.
`actions` are events that show it; a row says how many the bundle shows.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from cohortium.common.audit.evidence import Evidence

# Written after everything else, by whoever seals the bundle: always there.
SEALED = (
    "log/checkpoint",
    "log/events.jsonl",
    "log/leaf-hashes.bin",
    "log/seal.json",
    "manifest.json",
)
NO_FILE = "no file in this bundle"
NO_EVENT = "no such event is in this bundle"


@dataclass(frozen=True)
class Control:
    """`residual` is never empty: no program fulfils a rule by itself."""

    framework: str
    reference: str
    title: str
    emits: str
    residual: str
    files: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()


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
    found = [f"{actions[name]} {name}" for name in control.actions if actions.get(name)]
    return ", ".join(found) or NO_EVENT


def remaining(control: Control, files: Iterable[str]) -> str:
    """What a person still has to do; also that a file which should be there is not."""
    if control.files and not matching(files, control.files):
        return f"{NO_FILE} shows this. {control.residual}".capitalize()
    return control.residual


def tally(evidence: Evidence) -> Mapping[str, int]:
    """How often each action is among the events that may be shown."""
    return Counter(event.action for event in evidence.events)
