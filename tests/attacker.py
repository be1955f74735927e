"""An attacker on one site's evaluation, who knows nothing of how it was made but the study.

His unknowns are the patients by level of two attributes, outcome, interval of the score and whether
the other model is right; every number that he sees is an equation.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, linprog, milp

from cohortium.common.metrics.tallies import BinaryTally, Comparison, SiteEvaluation
from cohortium.common.study import Study

Vector = NDArray[np.float64]
Group = tuple[str, str]


@dataclass(frozen=True)
class Seen:
    """A count of some patients: (unknowns,) 1 for each that it is a sum of; None if hidden."""

    of: str
    who: Vector
    count: int | None


class Attacker:
    """Puts equations together for the patients of a study with two attributes and their pair."""

    def __init__(self, study: Study, shown: SiteEvaluation, other: str = "") -> None:
        self._names = study.fairness.attributes
        self._levels = [list(shown.groups[name]) for name in self._names]
        self._thresholds = study.evaluation.thresholds
        self._cuts = sorted({*self._thresholds, *(k / 8 for k in range(1, 8))})
        self._other = other
        sizes = [len(levels) for levels in self._levels]
        shape = (*sizes, 2, len(self._cuts) + 1, 2 if other else 1)
        self._axes = np.indices(shape).reshape(5, -1)
        self.seen = list(self._everything(shown))

    def known(self) -> list[Seen]:
        return [one for one in self.seen if one.count is not None]

    def range(self, who: Vector, whole: bool = False) -> tuple[float, float]:
        """The least and most that a sum can be by all that is seen; whole numbers if asked."""
        known = self.known()
        rows = np.array([one.who for one in known] or [np.zeros(len(who))])
        values = np.array([one.count for one in known] or [0], float)
        ends = []
        for sign in (1, -1):
            if whole:
                held = LinearConstraint(rows, values, values)
                found = milp(sign * who, constraints=held, integrality=1, bounds=Bounds(0, 10_000))
            else:
                found = linprog(sign * who, A_eq=rows, b_eq=values, bounds=(0, 10_000))
            assert found.status == 0
            ends.append(sign * found.fun)
        return ends[0], ends[1]

    def _everything(self, shown: SiteEvaluation) -> Iterator[Seen]:
        for name, who, tally in self._groups(shown):
            assert isinstance(tally, BinaryTally)
            yield from self._of_tally(name, who, tally)
        if self._other:
            beside = shown.beside[self._other]
            for name, who, _ in self._groups(shown):
                group = name.split(": ")
                one = beside.groups[group[0]][group[1]] if len(group) > 1 else beside.overall
                yield from self._of_pair(name, who, one)

    def _groups(self, shown: SiteEvaluation) -> Iterator[tuple[str, Vector, object]]:
        first, second = self._axes[0], self._axes[1]
        yield "everybody", np.ones(len(first)), shown.overall
        for axis, name in enumerate(self._names):
            for place, (level, tally) in enumerate(shown.groups[name].items()):
                yield f"{name}: {level}", (self._axes[axis] == place).astype(float), tally
        pairs = product(*(enumerate(levels) for levels in self._levels))
        table = shown.groups.get(" x ".join(self._names), {})
        for (k, a), (j, b) in pairs:
            if table:
                who = ((first == k) & (second == j)).astype(float)
                yield f"{' x '.join(self._names)}: {a} x {b}", who, table[f"{a} x {b}"]

    def _above(self, cut: float) -> Vector:
        above: Vector = (self._axes[3] > self._cuts.index(cut)).astype(float)
        return above

    def _of_tally(self, name: str, who: Vector, tally: BinaryTally) -> Iterator[Seen]:
        ill = self._axes[2].astype(float)
        well, called = 1 - ill, self._above(self._thresholds[0])
        counts = {
            "n": (1 + 0 * ill, tally.n),
            "positives": (ill, tally.positives),
            "negatives": (well, _minus(tally.n, tally.positives)),
            "correct": (ill * called + well * (1 - called), tally.correct),
            "wrong": (well * called + ill * (1 - called), _minus(tally.n, tally.correct)),
            "tp": (ill * called, tally.tp),
            "fp": (well * called, tally.fp),
            "tn": (well * (1 - called), tally.tn),
            "fn": (ill * (1 - called), tally.fn),
        }
        for place, threshold in enumerate(self._thresholds[1:]):
            one = tally.further[place] if place < len(tally.further) else None
            above = self._above(threshold)
            counts[f"tp above {threshold}"] = (ill * above, one.tp if one else None)
            counts[f"fp above {threshold}"] = (well * above, one.fp if one else None)
        for part in (2, 4, 8):
            for k in range(part):
                inside = self._above(k / part) if k else 1 + 0 * ill
                inside = inside - (self._above((k + 1) / part) if k + 1 < part else 0)
                bins = tally.bins if tally.bins and len(tally.bins.n) == part else None
                positives = bins.positives[k] if bins else None
                rest = bins.n[k] - bins.positives[k] if bins else None
                counts[f"ill in bin {k} of {part}"] = (ill * inside, positives)
                counts[f"well in bin {k} of {part}"] = (well * inside, rest)
        for of, (cells, count) in counts.items():
            yield Seen(f"{name}, {of}", who * cells, count)

    def _of_pair(self, name: str, who: Vector, one: Comparison) -> Iterator[Seen]:
        mine = (self._axes[2] == self._above(self._thresholds[0])).astype(float)
        theirs = self._axes[4].astype(float)
        for of, cells, count in (
            ("both", mine * theirs, one.both),
            ("federated only", mine * (1 - theirs), one.federated_only),
            ("other only", (1 - mine) * theirs, one.other_only),
            ("neither", (1 - mine) * (1 - theirs), one.neither),
        ):
            yield Seen(f"{name}, {of}", who * cells, count)


def _minus(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one - other
