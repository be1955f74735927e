"""Which sums of a calibration may leave a site, where the coordinator chooses the points.

A steep slope turns p into "scores above a threshold", and sums of p into the counts that disclosure
control hides; a few questions more would find one patient's score. So at every point that is asked:

1. Only groups are answered whose means the site has shown; and only where the group's patients are
   undecided enough: the sum v of p (1 - p) is at least minimum_cell / 2, at the point and at
   (0, 1). The count above the middle may lie v to 2 v below or above the sum of p, so that one
   question leaves about minimum_cell of it open, however steep the slope. After eight that were
   chosen for it, a quarter of that remains open in the worst case found
   (`tests/common/test_calibration_attack.py`).
2. The same holds of what is left of a group without the levels of any other attribute that lie
   within it: else the smallest of those levels is not answered. This is decided for a point as if
   all groups were asked there, so that asking them one by one tells no more.
3. Sums are rounded to multiples of minimum_cell / 10: to whole patients by default.

With minimum_cell 0 everything is answered exactly.

What rounding costs: K sites move each part of the pooled gradient by at most K u / 2, with u =
minimum_cell / 10, and typically by (K / 12)^(1/2) u. The slope moves by that times its variance
(and the covariance with the intercept): with four sites, u = 1 and a standard error of 0.1, by
at most 0.2 standard errors and typically 0.06. The reported interval counts it in.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cohortium.common.metrics.calibration import (
    EVERYBODY,
    START,
    Flags,
    Floats,
    Group,
    Point,
    Sums,
    probabilities,
    sums_at,
)

UNDECIDED = 0.5  # least sum of p (1 - p), in minimum_cell
UNIT = 0.1  # of what sums are multiples of, in minimum_cell


@dataclass(frozen=True, eq=False)
class Patients:
    """Logits x (n,), who has the outcome (n,), and who is in each group whose means are shown (n,).

    EVERYBODY is one of the groups, if the site has shown its means.
    """

    x: Floats
    positive: Flags
    groups: Mapping[Group, Flags]


def answer(
    patients: Patients, points: Mapping[Group, Point], minimum_cell: int
) -> dict[Group, Sums]:
    """The sums of each group at its point, those that may leave."""
    cells = _Cells(patients, minimum_cell)
    at_start = cells.answered(frozenset(patients.groups), START)
    return {
        group: _rounded(_sums(patients, group, point), minimum_cell)
        for group, point in points.items()
        if group in cells.answered(at_start, point)
    }


def _sums(patients: Patients, group: Group, point: Point) -> Sums:
    rows = patients.groups[group]
    return sums_at(patients.x[rows], patients.positive[rows], point)


class _Cells:
    """Which groups may be answered at a point, whatever else was, or will be, answered there."""

    def __init__(self, patients: Patients, minimum_cell: int) -> None:
        self._x, self._least = patients.x, minimum_cell * UNDECIDED
        self._names = tuple(patients.groups)
        self._row = {group: row for row, group in enumerate(self._names)}
        members = np.array([patients.groups[name] for name in self._names], np.float32)
        self._members = members.reshape(len(self._names), len(patients.x))
        self._shared = self._members @ self._members.T  # whole numbers, exact below 2**24
        self._known: dict[Point, frozenset[Group]] = {}

    def answered(self, among: frozenset[Group], point: Point) -> frozenset[Group]:
        """Those of some groups of which, and of whose differences, nothing small can be told."""
        if self._least == 0:
            return among
        if point not in self._known:
            self._known[point] = self._judge(among, point)
        return self._known[point]

    def _judge(self, among: frozenset[Group], point: Point) -> frozenset[Group]:
        undecided = self._members @ _undecided(self._x, point)
        answered = {group for group in among if undecided[self._row[group]] >= self._least}
        for whole in sorted(answered):
            for attribute in sorted({name for name, _ in answered} - {whole[0], EVERYBODY[0]}):
                self._keep_vague(answered, whole, attribute, undecided)
        return frozenset(answered)

    def _keep_vague(
        self, answered: set[Group], whole: Group, attribute: str, undecided: Floats
    ) -> None:
        """Drop the smallest levels within `whole` until what is left of it gives nothing away."""
        parts = [g for g in answered if g[0] == attribute and self._within(g, whole)]
        parts.sort(key=lambda part: (self._size(part), part))
        while parts and whole in answered:
            rest = self._size(whole) - sum(map(self._size, parts))
            left = undecided[self._row[whole]] - sum(undecided[self._row[p]] for p in parts)
            if rest == 0 or left >= self._least:
                return
            answered.discard(parts.pop(0))

    def _size(self, group: Group) -> float:
        row = self._row[group]
        return float(self._shared[row, row])

    def _within(self, part: Group, whole: Group) -> bool:
        return bool(self._shared[self._row[part], self._row[whole]] == self._size(part))


def _undecided(x: Floats, point: Point) -> Floats:
    p = probabilities(x, point)
    return p * (1 - p)


def _rounded(sums: Sums, minimum_cell: int) -> Sums:
    if minimum_cell == 0:
        return sums
    unit = minimum_cell * UNIT
    a, b, c, d, e = (
        round(value / unit) * unit + 0.0 for value in (*sums.gradient, *sums.information)
    )
    return Sums(gradient=(a, b), information=(c, d, e), rounding=unit**2 / 12)
