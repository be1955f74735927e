"""What a training process gives up before it sees a patient: network, memory, priority."""

import ctypes
import os
import resource
import sys

CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38
PR_SET_DUMPABLE = 4
NICENESS = 10


def confine(memory_bytes: int, threads: int) -> str:
    """Confine the calling process for good; returns in words what could be done.

    On Linux: a network namespace without any interface (as root, or where unprivileged user
    namespaces are allowed), no new privileges, no core dump, death with the parent. Elsewhere only
    limits and niceness apply.
    """
    os.nice(NICENESS)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    done = [f"nice {NICENESS}", _limit_memory(memory_bytes), _limit_processors(threads)]
    if sys.platform.startswith("linux"):
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(PR_SET_PDEATHSIG, 9)
        libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        libc.prctl(PR_SET_DUMPABLE, 0)
        done.append(_cut_network(libc))
    else:
        done.append("network not cut (only Linux can)")
    return ", ".join(done)


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


def _cut_network(libc: ctypes.CDLL) -> str:
    if libc.unshare(CLONE_NEWNET) == 0 or libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0:
        return "no network"
    return "network not cut (this system allows no namespaces)"
