"""What `audit export` and `audit verify` of a long record cost: seconds, memory and bytes.

Each runs as a process of its own, the verifier without any of our code but its one file. Memory is
the process's largest (`ru_maxrss`), what it takes to start included. What an event adds is worked
out between the first and the last size, so that what does not grow does not count.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

from benchmarks import long_record
from cohortium.common.audit import verify as verifier

AUDIENCES = ("consortium", "regulator")
SMALLEST = 10_000
COMMAND = "import sys; from cohortium.common.cli import main; sys.exit(main(sys.argv[1:]))"


@dataclass(frozen=True)
class Ran:
    """A process: `s` by the clock, `cpu_s` of a core, `mb` at most."""

    s: float
    cpu_s: float
    mb: float


class Refused(Exception):
    """A process that ended with an error; its words."""


@dataclass(frozen=True)
class Export:
    """One export and its verification. bytes: of the zip, and `unpacked` of what is in it.

    refused: the words of the one that ended with an error.
    """

    events: int
    audience: str
    export: Ran | None = None
    verify: Ran | None = None
    bytes: int = 0
    unpacked: int = 0
    refused: str = ""


def measure(folder: Path, events: int) -> list[Export]:
    """Exports for both audiences at powers of ten up to `events`."""
    found = []
    for size in _sizes(events):
        root, policy = folder / f"net-{size}", folder / f"policy-{size}.txt"
        policy.write_text(long_record.make(root, size))
        found += [_measured(root, policy, size, audience) for audience in AUDIENCES]
    return found


def text(found: Sequence[Export]) -> str:
    """A table, and what an event adds."""
    head = (
        f"{'events':>9} {'audience':>10} {'export':>9} {'memory':>8} {'verify':>9} {'memory':>8} "
        f"{'zip':>9} {'zip/event':>10} {'unpacked':>9}"
    )
    return "\n".join(
        [head, *map(_row, found), *(line for one in AUDIENCES for line in _added(found, one))]
    )


def _row(one: Export) -> str:
    begin = f"{one.events:9,} {one.audience:>10}"
    if one.export is None or one.verify is None:
        return f"{begin} {one.refused}"
    return (
        f"{begin} {one.export.s:7.1f} s {one.export.mb:5.0f} MB {one.verify.s:7.1f} s "
        f"{one.verify.mb:5.0f} MB {one.bytes / 1e6:6.1f} MB {one.bytes / one.events:8.0f} B "
        f"{one.unpacked / one.events:7.0f} B"
    )


def _added(found: Sequence[Export], audience: str) -> list[str]:
    """What an event adds, of an audience with two sizes that were not refused."""
    sizes = [one for one in found if one.audience == audience and not one.refused]
    if len(sizes) < 2:
        return []
    first, last = sizes[0], sizes[-1]
    pairs = (("export", first.export, last.export), ("verify", first.verify, last.verify))
    added = (
        f"{name} {1e6 * (after.cpu_s - before.cpu_s) / (last.events - first.events):.0f} us of a "
        f"core and {1e6 * (after.mb - before.mb) / (last.events - first.events):,.0f} B of memory"
        for name, before, after in pairs
        if before is not None and after is not None
    )
    return [f"{audience}: an event adds to {', to '.join(added)}"]


def _sizes(events: int) -> list[int]:
    sizes = [SMALLEST]
    while sizes[-1] * 10 <= events:
        sizes.append(sizes[-1] * 10)
    return sizes


def _measured(root: Path, policy: Path, size: int, audience: str) -> Export:
    out = root.with_suffix(f".{audience}.zip")
    asked = ("--dir", str(root), "--out", str(out), "--as", "Dr. E. Haddad", "--wait", "0")
    try:
        export = _run("-c", COMMAND, "audit", "export", *asked, "--audience", audience)
        verify = _run("-I", str(verifier.__file__), str(out), "--policy", str(policy))
    except Refused as error:
        return Export(size, audience, refused=str(error))
    with ZipFile(out) as packed:
        unpacked = sum(entry.file_size for entry in packed.infolist())
    return Export(size, audience, export, verify, out.stat().st_size, unpacked)


def _run(*arguments: str) -> Ran:
    """Run a Python of its own; Refused, with its last line, where it ends with an error."""
    begin = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        said = process.stdout.read() if process.stdout is not None else ""
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise Refused((said.splitlines() or [f"ended with {process.returncode}"])[-1])
    took = time.perf_counter() - begin
    return Ran(took, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e6)
