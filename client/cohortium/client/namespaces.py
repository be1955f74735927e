"""Linux namespaces: a process without network, that sees files read-only and some not at all.

As root, or where the system allows namespaces to ordinary users; see namespaces(7).
"""

import ctypes
import fcntl
import os
import socket
import struct
from pathlib import Path

NEWNS, NEWUSER, NEWNET = 0x00020000, 0x10000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_BIND, MS_PRIVATE = 4096, 1 << 18
MOUNT_SETATTR = 442  # mount_setattr(2), Linux 5.12; the same number on every architecture
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
ATTR_RDONLY = 1
CAPABILITY_VERSION = 0x20080522  # capset(2), version 3: two words of each set
SIOCSIFFLAGS, IFF_UP, IFF_RUNNING = 0x8914, 0x1, 0x40  # netdevice(7)
DAC_OVERRIDE = 1 << 1  # root reads a table that is not its own


class MountAttributes(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "fd"))


def enter(libc: ctypes.CDLL) -> tuple[bool, bool]:
    """Leave the network and get an own view of the files; whether each worked.

    The calling process must have no other threads: they would stay where they are.
    """
    if os.geteuid() == 0:
        network, files = libc.unshare(NEWNET) == 0, libc.unshare(NEWNS) == 0
        if network or files:
            return network, files
    user, group = os.geteuid(), os.getegid()
    if libc.unshare(NEWUSER | NEWNET | NEWNS) == 0:
        _stay(user, group)
        return True, True
    return libc.unshare(NEWUSER | NEWNET) == 0, False


def raise_loopback() -> bool:
    """In an own network namespace, let its processes talk to each other; whether that worked.

    The interface leads nowhere else. Needs the namespace's capabilities, before they are dropped.
    """
    request = struct.pack("16sH14x", b"lo", IFF_UP | IFF_RUNNING)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            fcntl.ioctl(any_socket, SIOCSIFFLAGS, request)
        return True
    except OSError:
        return False


def _stay(user: int, group: int) -> None:
    """Be the same user in a new user namespace as outside."""
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{user} {user} 1"),
        ("gid_map", f"{group} {group} 1"),
    ):
        try:
            Path(f"/proc/self/{name}").write_text(text, encoding="ascii")
        except OSError:
            pass  # files are read by the number that the kernel keeps all the same


def hide(hidden: Path, libc: ctypes.CDLL) -> bool:
    """In an own view of the files, put an empty directory in a directory's place."""
    flags = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC
    return bool(
        _set("/", libc, recursive=True, propagation=MS_PRIVATE)
        and libc.mount(b"none", os.fsencode(hidden), b"tmpfs", flags, b"size=4k,mode=500") == 0
    )


def read_only_but(scratch: Path, libc: ctypes.CDLL) -> bool:
    """In an own view of the files, make all read-only but what is below `scratch`."""
    place = os.fsencode(scratch)
    done = (
        _set("/", libc, recursive=True, propagation=MS_PRIVATE)
        and libc.mount(place, place, None, MS_BIND, None) == 0
        and _set("/", libc, recursive=True, set=ATTR_RDONLY)
        and _set(str(scratch), libc, clear=ATTR_RDONLY)
    )
    os.chdir(scratch)  # the working directory was the one below
    return bool(done)


def _set(path: str, libc: ctypes.CDLL, recursive: bool = False, **changes: int) -> bool:
    attributes = MountAttributes(**changes)
    flags = AT_RECURSIVE if recursive else 0
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    name = os.fsencode(path)
    return bool(
        libc.syscall(MOUNT_SETATTR, AT_FDCWD, name, flags, ctypes.byref(attributes), size) == 0
    )


def drop_capabilities(libc: ctypes.CDLL) -> None:
    """Give up root's powers for good, but the one to read others' files where root had it."""
    keep = DAC_OVERRIDE if os.geteuid() == 0 else 0
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    sets = (ctypes.c_uint32 * 6)(keep, keep, 0, 0, 0, 0)
    libc.capset(ctypes.byref(header), ctypes.byref(sets))
