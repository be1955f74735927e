"""A bad link: a network namespace whose packets a process of the test delays, loses and holds up.

Two TUN devices, one here and one in a namespace of its own, and between them a process that reads
each packet on one side and writes it on the other, later or never. The kernel needs no netem for
that, and nothing outlives the process: not the devices, not the routes, not the namespace.
"""

import ctypes
import fcntl
import multiprocessing
import os
import random
import select
import shutil
import struct
import subprocess
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

import pytest
from tests.transport import echo_for_ever

from cohortium.client.line import FleetConnection

NEAR, FAR = "10.231.77.1", "10.231.77.2"
CLONE_NEWNET = 0x40000000
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
QUEUE_BYTES = 4 * 2**20  # a router's; what does not fit is lost
SPAWN = multiprocessing.get_context("spawn")
LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class BadLink:
    """A link that exists for as long as the block that made it.

    Attributes:
        process: forwards the packets; the far side is its namespace.
        shared: until when the link is cut, then the bytes carried to the far side and back.
    """

    process: SpawnProcess
    shared: Any

    @property
    def to_far(self) -> int:
        """Bytes of packets delivered at the far side."""
        return int(self.shared[1])

    @property
    def to_near(self) -> int:
        return int(self.shared[2])

    def cut(self, seconds: float) -> None:
        """Lose every packet for so long."""
        self.shared[0] = time.monotonic() + seconds

    def node(self, connection: FleetConnection) -> SpawnProcess:
        """A site at the far side, in a process of its own; it answers requests turned round."""
        process = SPAWN.Process(target=_serve, args=(self.process.pid, connection), daemon=True)
        process.start()
        return process


@contextmanager
def bad_link(delay_s: float, loss: float, seed: int = 1) -> Iterator[BadLink]:
    """Join this namespace (NEAR) to one of its own (FAR), or skip the test and say why not.

    Both ends use TCP's ordinary congestion control (cubic), whatever this machine prefers.

    Args:
        delay_s: of each packet, each way.
        loss: share of the packets that is lost, each way.
    """
    if os.geteuid() != 0 or not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        pytest.skip("a bad link needs root and /dev/net/tun")
    if shutil.which("ip") is None:
        pytest.skip("a bad link needs the program ip (iproute2)")
    here, there = SPAWN.Pipe()
    shared = SPAWN.RawArray("d", 3)
    process = SPAWN.Process(target=_link, args=(there, shared, delay_s, loss, seed), daemon=True)
    process.start()
    try:
        if not here.poll(20) or (said := here.recv()) != "ready":
            pytest.skip(f"a bad link cannot be made here: {said}")
        yield BadLink(process, shared)
    finally:
        process.kill()
        process.join()


def _link(tell: Connection, shared: Any, delay_s: float, loss: float, seed: int) -> None:
    try:
        near = _device("cohortium-near", NEAR, FAR)
        _check(LIBC.unshare(CLONE_NEWNET))
        far = _device("cohortium-far", FAR, NEAR)
    except (OSError, subprocess.CalledProcessError) as error:
        tell.send(str(error))
        return
    tell.send("ready")
    chance = random.Random(seed)
    _forward((_Way(near, far, 1), _Way(far, near, 2)), shared, delay_s, loss, chance)


class _Way:
    """One direction: packets that were read and are not due yet."""

    def __init__(self, source: int, sink: int, counter: int) -> None:
        self.source = source
        self.sink = sink
        self.counter = counter
        self.packets: deque[tuple[float, bytes]] = deque()
        self.held = 0


def _forward(
    ways: tuple[_Way, _Way], shared: Any, delay_s: float, loss: float, chance: random.Random
) -> None:
    while True:
        now = time.monotonic()
        due = [way.packets[0][0] for way in ways if way.packets]
        wait_s = max(min(due, default=now + 1.0) - now, 0.0)
        ready, _, _ = select.select([way.source for way in ways], [], [], wait_s)
        now = time.monotonic()
        for way in ways:
            if way.source in ready:
                packet = os.read(way.source, 2**16)
                fits = way.held + len(packet) <= QUEUE_BYTES
                if fits and now >= shared[0] and chance.random() >= loss:
                    way.packets.append((now + delay_s, packet))
                    way.held += len(packet)
            while way.packets and way.packets[0][0] <= now:
                _, packet = way.packets.popleft()
                way.held -= len(packet)
                os.write(way.sink, packet)
                shared[way.counter] += len(packet)


def _device(name: str, address: str, peer: str) -> int:
    """A TUN device in this process's namespace, up, with a route to its peer."""
    tun = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    for command in (
        ["link", "set", name, "mtu", "1500", "txqueuelen", "2000", "up"],
        ["addr", "add", f"{address}/32", "dev", name],
        ["route", "replace", f"{peer}/32", "dev", name, "src", address, "congctl", "cubic"],
    ):
        subprocess.run(["ip", *command], check=True, capture_output=True)
    return tun


def _serve(link_pid: int, connection: FleetConnection) -> None:
    with open(f"/proc/{link_pid}/ns/net") as namespace:
        _check(LIBC.setns(namespace.fileno(), CLONE_NEWNET))
    echo_for_ever(connection, b"", 0.0)


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
