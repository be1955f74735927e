"""An attacker who solves for every hidden count from all that a site shows, totals included."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from cohortium.common.metrics.disclosure import suppress
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cohortium.common.metrics.tallies import BinaryTally, Called, SiteEvaluation

Histogram = tuple[tuple[int, ...], tuple[int, ...]]  # ill and well, by bin from the lowest score
Vector = NDArray[np.float64]


def tally(histogram: Histogram, order: tuple[int, ...]) -> BinaryTally:
    """Counts of patients in score bins; thresholds stand between bins, in a study's `order`."""
    ill, well = histogram
    first, *further = (Called(tp=sum(ill[k + 1 :]), fp=sum(well[k + 1 :])) for k in order)
    return BinaryTally(
        n=sum(ill) + sum(well),
        positives=sum(ill),
        correct=first.tp + sum(well) - first.fp,
        tp=first.tp,
        fp=first.fp,
        tn=sum(well) - first.fp,
        fn=sum(ill) - first.tp,
        log_loss=0.5,
        auroc=0.75,
        further=tuple(further),
    )


def evaluation(levels: list[Histogram], order: tuple[int, ...]) -> SiteEvaluation:
    total = np.sum(levels, axis=0).tolist()
    return SiteEvaluation(
        overall=tally((tuple(total[0]), tuple(total[1])), order),
        groups={"band": {f"level {k}": tally(level, order) for k, level in enumerate(levels)}},
    )


@dataclass(frozen=True)
class Attack:
    """Linear equations over the cells (level, outcome, bin), and that no cell is below zero."""

    levels: int
    order: tuple[int, ...]

    @property
    def bins(self) -> int:
        return len(self.order) + 1

    def picks(self, who: int | None, ill: slice | None, well: slice | None) -> Vector:
        """The sum of some bins over one level, or over all (None)."""
        chosen = np.zeros((self.levels, 2, self.bins))
        for outcome, bins in enumerate((ill, well)):
            if bins is not None:
                chosen[slice(who, None if who is None else who + 1), outcome, bins] = 1
        return chosen.ravel()

    def equations(self, who: int | None, shown: BinaryTally) -> Iterator[tuple[Vector, int]]:
        everyone = slice(None)
        above = [slice(k + 1, None) for k in self.order]
        below = [slice(None, k + 1) for k in self.order]
        known: list[tuple[int | None, slice | None, slice | None]] = [
            (shown.n, everyone, everyone),
            (shown.positives, everyone, None),
            (shown.correct, above[0], below[0]),
            (shown.tp, above[0], None),
            (shown.fp, None, above[0]),
            (shown.tn, None, below[0]),
            (shown.fn, below[0], None),
        ]
        for k, called in enumerate(shown.further, start=1):
            known += [(called.tp, above[k], None), (called.fp, None, above[k])]
        for value, ill, well in known:
            if value is not None:
                yield self.picks(who, ill, well), value

    def solve(self, shown: SiteEvaluation) -> tuple[NDArray[np.float64], Vector]:
        """Everything that follows: a sum of no patients makes each of its cells zero."""
        tallies = [(None, shown.overall), *enumerate(shown.groups["band"].values())]
        found = [pair for who, one in tallies for pair in self.equations(who, one)]
        empty = sum(
            (row for row, value in found if value == 0), np.zeros(self.levels * 2 * self.bins)
        )
        found += [(row, 0) for row in np.eye(len(empty))[empty > 0]]
        matrix = np.array([row for row, _ in found] or [empty])
        return matrix, np.array([value for _, value in found] or [0], float)

    def recovered(self, shown: SiteEvaluation) -> Iterator[int]:
        """Every count of one level, or of all, that the equations leave no choice about."""
        matrix, values = self.solve(shown)
        inverse = np.linalg.pinv(matrix)
        for who, ill, well in product(
            [None, *range(self.levels)], [None, *self._runs()], [None, *self._runs()]
        ):
            if (ill is None) == (well is None) and (ill, well) != (slice(None), slice(None)):
                continue
            target = self.picks(who, ill, well)
            if np.allclose(target @ inverse @ matrix, target, atol=1e-8):
                yield round(float(target @ inverse @ values))

    def _runs(self) -> list[slice]:
        ends = range(1, self.bins + 1)
        runs = [slice(a, b) for b in ends for a in range(b) if (a, b) != (0, self.bins)]
        return [slice(None), *runs]


cells = st.sampled_from([0, 2, 9, 10, 10, 12, 15, 20, 20, 25, 30, 40])  # mostly large enough
bins = st.tuples(*[cells] * 4)


@settings(max_examples=300, deadline=None)
@given(
    levels=st.lists(st.tuples(bins, bins), min_size=1, max_size=4),
    order=st.permutations(range(3)).map(tuple),
)
def test_solving_for_a_hidden_count_finds_no_small_group(
    levels: list[Histogram], order: tuple[int, ...]
) -> None:
    shown = suppress(evaluation(levels, order), 10)
    assert not [count for count in Attack(len(levels), order).recovered(shown) if 0 < count < 10]


def test_the_attacker_is_able_where_nothing_protects() -> None:
    levels: list[Histogram] = [((3, 20, 20, 20), (20,) * 4), ((20,) * 4, (20,) * 4)]
    raw = evaluation(levels, (0, 1, 2))
    nothing = suppress(evaluation([((1, 0), (1, 0))], (0,)), 10).overall
    careless = raw.model_copy(
        update={"groups": {"band": {**raw.groups["band"], "level 0": nothing}}}
    )
    assert 3 in set(Attack(2, (0, 1, 2)).recovered(careless))


def test_two_thresholds_with_few_patients_between_them_are_not_both_shown() -> None:
    close = (((20, 4, 20), (20, 20, 20)),)
    shown = suppress(evaluation(list(close), (0, 1)), 10).overall
    assert (shown.tp, shown.further) == (24, ())
    apart = (((20, 14, 20), (20, 0, 20)),)
    shown = suppress(evaluation(list(apart), (0, 1)), 10).overall
    assert shown.further == (Called(tp=20, fp=20),)


def test_a_cell_that_is_empty_everywhere_does_not_solve_for_the_others() -> None:
    """Nobody with the outcome is called: of level 1, correct (10) would give fp = 12 - 10 = 2."""
    levels: list[Histogram] = [((0, 0), (0, 10)), ((10, 0), (10, 2)), ((20, 0), (20, 20))]
    shown = suppress(evaluation(levels, (0,)), 10)
    assert (shown.overall.tp, shown.overall.fp) == (0, 32)
    assert [level.correct for level in shown.groups["band"].values()] == [None, None, 20]
    assert not [count for count in Attack(3, (0,)).recovered(shown) if 0 < count < 10]
