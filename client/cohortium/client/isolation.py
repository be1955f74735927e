"""What a training process gives up before it sees a patient: network, files, memory, priority."""

import ctypes
import os
import resource
import sys
from pathlib import Path

from cohortium.client import landlock, namespaces

PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38
PR_SET_DUMPABLE = 4
NICENESS = 10


def confine(
    memory_bytes: int, threads: int, scratch: Path, hidden: Path, *, loopback: bool = False
) -> str:
    """Confine the calling process for good; returns in words what could be done.

    Call it before any other thread exists: a thread keeps the network and the files that it was
    born with. On Linux: a network namespace without any interface and a view of the files in which
    only `scratch` can be written and `hidden` (the site's keys) is empty, as root or where ordinary
    users may have namespaces; Landlock says the same without namespaces, but hides nothing. Then no
    capabilities, no new privileges, no core dump, death with the parent. Elsewhere only limits and
    niceness apply.

    Args:
        scratch, hidden: existing directories, absolute.
        loopback: whether processes that it starts, which have given up the same, may talk to it
            and to each other: over a loopback interface that nobody outside the namespace has.
    """
    os.nice(NICENESS)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    done = [f"nice {NICENESS}", _limit_memory(memory_bytes), _limit_processors(threads)]
    return ", ".join([*done, *_cut_off(scratch, hidden, loopback)])


def _cut_off(scratch: Path, hidden: Path, loopback: bool = False) -> tuple[str, ...]:
    if not sys.platform.startswith("linux"):
        return ("NETWORK OPEN", "FILES WRITABLE", "KEYS READABLE (only Linux can close them)")
    libc = ctypes.CDLL(None, use_errno=True)
    no_network, own_view = namespaces.enter(libc)
    own_loopback = no_network and loopback and namespaces.raise_loopback()
    keys_hidden = own_view and namespaces.hide(hidden, libc)
    read_only = own_view and namespaces.read_only_but(scratch, libc)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    namespaces.drop_capabilities(libc)
    read_only = landlock.write_only_below(scratch, libc) or read_only
    libc.prctl(PR_SET_PDEATHSIG, 9)
    libc.prctl(PR_SET_DUMPABLE, 0)
    return (
        _said_of_network(no_network, own_loopback),
        "files read-only" if read_only else "FILES WRITABLE (no Landlock here)",
        "no keys" if keys_hidden else "KEYS READABLE (no namespaces here)",
    )


def _said_of_network(no_network: bool, own_loopback: bool) -> str:
    if not no_network:
        return "NETWORK OPEN (no namespaces here)"
    return "no network but between its own processes" if own_loopback else "no network"


def _limit_memory(memory_bytes: int) -> str:
    """RLIMIT_DATA: heap and private mappings, not the libraries that torch maps."""
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    limit = memory_bytes if hard == resource.RLIM_INFINITY else min(memory_bytes, hard)
    try:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    except (ValueError, OSError):
        return "memory not limited"
    return f"memory at most {limit / 2**30:.1f} GiB"


def _limit_processors(threads: int) -> str:
    if not hasattr(os, "sched_setaffinity"):
        return f"{threads} threads"
    usable = sorted(os.sched_getaffinity(0))
    if threads < len(usable):
        start = os.getpid() % len(usable)
        os.sched_setaffinity(0, {usable[(start + i) % len(usable)] for i in range(threads)})
    return f"{min(threads, len(usable))} processors"


if __name__ == "__main__":  # for the doctor: what would be said of training here
    print(", ".join(_cut_off(Path(sys.argv[1]), Path(sys.argv[2]))))
