"""Large models over a link that delays, loses and breaks: they arrive, once, in little memory."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.e2e.faults.bad_link import NEAR, BadLink, bad_link
from tests.transport import Federation, federation, wait_for

from cohortium.client.lanes import LANES
from cohortium.common.parcel import CHUNK_BYTES
from cohortium.server.flower_sites import FlowerSites

DELAY_S, LOSS = 0.05, 0.01
OVERHEAD = 1.10  # TCP's and TLS's headers, acknowledgements, and 1% that is sent again
MODELS_IN_MEMORY = 3.0  # below, at both ends, over the idle process


@dataclass
class Distant:
    """A coordinator here and a site at the far side of a bad link."""

    link: BadLink
    coordinator: Federation
    pids: dict[str, int]

    def exchange(self, model: bytes, cut_s: float, deadline_s: float) -> bytes:
        """Send a model, cut the link in the middle of it, and return the reply."""
        sites = FlowerSites(self.coordinator.superlink, self.coordinator.node_ids)
        begun = self.link.to_far

        def cut() -> None:
            wait_for(lambda: self.link.to_far - begun > len(model) / 2, deadline_s)
            self.link.cut(cut_s)

        threading.Thread(target=cut, daemon=True).start()
        deadline, replies = time.monotonic() + deadline_s, {"north": b""}
        while not replies["north"] and time.monotonic() < deadline:
            replies |= sites.ask({"north": b"head"}, model, deadline - time.monotonic())
        sites.close(completed=True)
        return replies["north"]


@contextmanager
def distant_site(folder: Path) -> Iterator[Distant]:
    with bad_link(DELAY_S, LOSS) as link, federation(folder, NEAR) as made:
        process = link.node(made.enrol("north"))
        try:
            wait_for(lambda: made.superlink.nodes()[made.node_ids["north"]] == "online", 40)
            superlink = made.superlink._process
            assert superlink is not None
            pids = {"coordinator": os.getpid(), "site": process.pid or 0}
            yield Distant(link, made, pids | {"superlink": superlink.pid})
        finally:
            process.kill()
            process.join()


class Peaks:
    """The most anonymous memory that processes took while the block ran, in bytes over before."""

    def __init__(self, pids: dict[str, int]) -> None:
        self._idle = {name: _anonymous(pid) for name, pid in pids.items()}
        self._pids = pids
        self._ended = threading.Event()
        self.over_idle = dict.fromkeys(pids, 0)
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Peaks":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.1):
            for name, pid in self._pids.items():
                over = _anonymous(pid) - self._idle[name]
                self.over_idle[name] = max(self.over_idle[name], over)


def _anonymous(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


@pytest.mark.slow
def test_a_model_crosses_a_link_that_loses_packets_and_is_cut(tmp_path: Path) -> None:
    model = os.urandom(6 * CHUNK_BYTES)
    with distant_site(tmp_path) as site:
        assert site.exchange(model, cut_s=5.0, deadline_s=120) == (b"head" + model)[::-1]
        assert site.link.to_far < OVERHEAD * len(model) + 2 * CHUNK_BYTES
        assert site.link.to_near < OVERHEAD * len(model) + 2 * CHUNK_BYTES


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_500_mb_cross_such_a_link_in_less_memory_than_three_models(tmp_path: Path) -> None:
    model = os.urandom(500_000_000)
    with distant_site(tmp_path) as site:
        with Peaks(site.pids) as peaks:
            started = time.monotonic()
            reply = site.exchange(model, cut_s=20.0, deadline_s=1500)
            seconds = time.monotonic() - started
        assert reply == (b"head" + model)[::-1]
        assert site.link.to_far < OVERHEAD * len(model) + LANES * CHUNK_BYTES
        assert site.link.to_near < OVERHEAD * len(model) + LANES * CHUNK_BYTES
    models = {name: size / len(model) for name, size in peaks.over_idle.items()}
    print(f"500 MB there and back in {seconds:.0f} s; models of memory over idle: {models}")
    models["coordinator"] += 1  # the model was there before
    assert models["coordinator"] < MODELS_IN_MEMORY
    assert models["site"] < MODELS_IN_MEMORY
