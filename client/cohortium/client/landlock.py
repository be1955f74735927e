"""Landlock: a process takes from itself the right to write, without any privilege (Linux 5.13).

It may then also trace no process outside, and so not look at files through another's eyes.
"""

import ctypes
import os
from pathlib import Path

# linux/landlock.h and landlock(7): the same numbers on every architecture.
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
VERSION_FLAG = 1
PATH_BENEATH = 1
WRITE_FILE = 1 << 1
REMOVE_AND_MAKE = sum(1 << bit for bit in range(4, 13))
REFER = 1 << 13  # version 2: moving between directories
TRUNCATE = 1 << 14  # version 3
WHOLE = 3  # before it, a file that may not be written can be cut to nothing


class RuleSet(ctypes.Structure):
    _fields_ = (("handled_access_fs", ctypes.c_uint64),)


class PathBeneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def write_only_below(scratch: Path, libc: ctypes.CDLL) -> bool:
    """Let the calling process write nowhere but below `scratch`, and to devices.

    It must have no other threads, and must have given up new privileges.

    Returns:
        Whether that holds now, also against truncation.
    """
    version = libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), VERSION_FLAG)
    if version < 1:
        return False
    writing = WRITE_FILE | REMOVE_AND_MAKE
    writing |= (REFER if version >= 2 else 0) | (TRUNCATE if version >= WHOLE else 0)
    rules = RuleSet(writing)
    ruleset = libc.syscall(CREATE_RULESET, ctypes.byref(rules), ctypes.sizeof(rules), 0)
    if ruleset < 0:
        return False
    try:
        allowed = (
            _allow(ruleset, scratch, writing, libc)
            and _allow(ruleset, Path("/dev"), WRITE_FILE, libc)
            and libc.syscall(RESTRICT_SELF, ruleset, 0) == 0
        )
    finally:
        os.close(ruleset)
    return bool(allowed and version >= WHOLE)


def _allow(ruleset: int, path: Path, access: int, libc: ctypes.CDLL) -> bool:
    folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = PathBeneath(access, folder)
        added = libc.syscall(ADD_RULE, ruleset, PATH_BENEATH, ctypes.byref(rule), 0)
    finally:
        os.close(folder)
    return bool(added == 0)
