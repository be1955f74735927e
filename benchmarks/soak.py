"""A study of many rounds while processes are killed at random: it ends with the same model.

    python -m benchmarks.soak [--rounds 200] [--seed 7] [--every 3] [--json]

A real deployment over TLS with four sites. First the study runs undisturbed; then again, while the
coordinator, its SuperLink, a site's daemon or a training process gets SIGKILL, now and then two of
them at once. A daemon is started again at once, as a service manager would; the rest is theirs.
What a kill costs is the time until the next round is complete, less an undisturbed round's.
"""

import argparse
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tests.e2e.deployment import Deployment, deployment, each
from tests.e2e.faults.trouble import Run, begin, superlink_of, until
from tests.federation import set_policy

from cohortium.client.config import SiteDir
from cohortium.server.model_file import final_vector

SITES = ("a", "b", "c", "d")
TWO_AT_ONCE = 0.2  # the share of strikes that hit two processes
ROUND_S = 300.0  # a round that takes longer never ends

STUDY = """
[training]
rounds = {rounds}
batches = "shuffle"
batch_size = 16
local_steps = 10
learning_rate = 0.2

[privacy]
mechanism = "none"

[evaluation]
every = 1000
"""
FOUR = {'["a", "b", "c"]': '["a", "b", "c", "d"]'}


@dataclass(frozen=True)
class Strike:
    """What was killed at once, in which round, and the seconds that it cost."""

    killed: tuple[str, ...]
    round: int
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """Both runs: `same` says whether their models are equal to the last bit."""

    rounds: int
    seed: int
    same: bool
    undisturbed_s: float
    disturbed_s: float
    strikes: tuple[Strike, ...]


@dataclass
class Storm:
    """Kills processes of a deployment by the luck of a seed."""

    hospitals: Deployment
    run: Run
    luck: random.Random
    every_s: float
    usual_s: float
    strikes: list[Strike] = field(default_factory=list)

    def rage(self) -> None:
        """Until the study has ended: wait, kill, let a round pass."""
        while not self.run.row.ended:
            time.sleep(self.luck.uniform(0.5, 1.5) * self.every_s)
            if self.run.row.ended:
                return
            self._strike()

    def _strike(self) -> None:
        victims = self._draw()
        done, started = len(self.run.rounds), time.monotonic()
        for victim in victims:
            self._kill(victim)
        for victim in victims:
            self._start_again(victim)
        until(lambda: len(self.run.rounds) > done or self.run.row.ended, ROUND_S)
        lost = max(time.monotonic() - started - self.usual_s, 0.0)
        self.strikes.append(Strike(victims, done + 1, round(lost, 1)))
        print(f"round {done + 1}: {', '.join(victims)}: {lost:.1f} s lost", file=sys.stderr)

    def _draw(self) -> tuple[str, ...]:
        count = 2 if self.luck.random() < TWO_AT_ONCE else 1
        site = self.luck.choice(SITES)
        kinds = ("SuperLink", "coordinator", f"daemon of {site}", f"training of {site}")
        return tuple(sorted(self.luck.sample(kinds, count)))  # a SuperLink before its parent

    def _kill(self, victim: str) -> None:
        what, _, site = victim.partition(" of ")
        if what == "coordinator":
            self.hospitals.daemons["coordinator"].kill_group()
        elif what == "daemon":
            self.hospitals.daemons[site].kill_group()
        elif what == "training":
            _kill(self.run.worker(site))
        else:
            _kill(superlink_of(self.hospitals))

    def _start_again(self, victim: str) -> None:
        what, _, site = victim.partition(" of ")
        if what == "coordinator":
            self.hospitals.start_coordinator()
        elif what == "daemon":
            self.hospitals.start_site(site)


def soak(root: Path, rounds: int, seed: int, every_s: float) -> Outcome:
    """Run the study twice in a deployment of its own below `root`."""
    with deployment(root) as hospitals:
        hospitals.start_coordinator()
        hospitals.start_sites(*SITES)
        for name in SITES:
            set_policy(SiteDir(hospitals.site(name)).config, {"max_rounds": str(rounds)})
        calm, undisturbed_s, model = _complete(hospitals, "calm", rounds)
        usual_s = statistics.median(record.seconds for record in calm.rounds)
        storm = Storm(
            hospitals,
            _begin(hospitals, "storm", rounds),
            random.Random(seed),
            every_s,
            usual_s,
        )
        started = time.monotonic()
        storm.rage()
        disturbed_s = time.monotonic() - started
        return Outcome(
            rounds=rounds,
            seed=seed,
            same=bool(np.array_equal(_model(storm.run), model)),
            undisturbed_s=round(undisturbed_s, 1),
            disturbed_s=round(disturbed_s, 1),
            strikes=tuple(storm.strikes),
        )


def _complete(
    hospitals: Deployment, name: str, rounds: int
) -> tuple[Run, float, NDArray[np.float32]]:
    run, started = _begin(hospitals, name, rounds), time.monotonic()
    run.completes(ROUND_S + rounds * 10.0)
    return run, time.monotonic() - started, _model(run)


def _begin(hospitals: Deployment, name: str, rounds: int) -> Run:
    """A study without noise that all four sites have approved, and that waits for each of them."""
    place = hospitals.root / name
    place.mkdir()
    run = begin(
        hospitals,
        place,
        name,
        rounds=rounds,
        training=STUDY,
        min_sites=len(SITES),
        round_deadline="30.0",
        on_missing="wait",
        changes=FOUR,
    )
    each(SITES, run.sign)
    return run


def _model(run: Run) -> NDArray[np.float32]:
    row = run.row
    if row.state != "completed":
        raise SystemExit(f"the study {row.state}: {row.cause}")
    with run.store() as store:
        return final_vector(row, store)


def _kill(pid: int | None) -> None:
    """Nothing where it had not been started yet, or has just ended."""
    if pid is not None:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def _lines(outcome: Outcome) -> Iterator[str]:
    verdict = "the same model to the last bit" if outcome.same else "ANOTHER MODEL"
    yield f"{outcome.rounds} rounds, four sites, seed {outcome.seed}: {verdict}"
    yield f"undisturbed {outcome.undisturbed_s:.0f} s, disturbed {outcome.disturbed_s:.0f} s"
    yield f"{'killed':32}{'times':>6}{'s lost, median':>16}{'most':>8}"
    lost: dict[str, list[float]] = {}
    for strike in outcome.strikes:
        kinds = sorted(victim.partition(" of ")[0] for victim in strike.killed)
        lost.setdefault(" and ".join(kinds), []).append(strike.seconds)
    for killed, seconds in sorted(lost.items()):
        middle = statistics.median(seconds)
        yield f"{killed:32}{len(seconds):6}{middle:16.1f}{max(seconds):8.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--every", type=float, default=3.0, help="mean seconds between two strikes")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        outcome = soak(Path(root), options.rounds, options.seed, options.every)
    if options.json:
        print(json.dumps(asdict(outcome)))
    else:
        print("\n".join(_lines(outcome)))
    sys.exit(0 if outcome.same else 1)


if __name__ == "__main__":
    main()
