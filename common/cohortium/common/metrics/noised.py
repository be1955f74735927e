"""Counts with noise, where a study asks for it: all that leaves of its held-out patients.

One table of tp, fp, tn and fn at the first threshold over all patients, one by each attribute and
one by each declared intersection: a patient is in one cell of each. Every cell gets noise of its
own and is cut off at 0; everything else is a sum of cells. No cell is hidden, and nothing else is
shown, of this evaluation, of an earlier one or of other models: exact numbers beside them would
undo the noise.
"""

from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np

from cohortium.common.metrics.facets import Flags, Levels, families
from cohortium.common.metrics.tallies import BinaryTally, SiteEvaluation
from cohortium.common.privacy.discrete_gaussian import discrete_gaussian
from cohortium.common.privacy.noise import NoiseSource

ONLY_COUNTS: Final = "only counts with noise leave the site"
LATER: Final = "counts leave once, with noise, of the final model"


def nothing() -> SiteEvaluation:
    """An evaluation before the last one."""
    overall = BinaryTally(
        n=None,
        positives=None,
        correct=None,
        tp=None,
        fp=None,
        tn=None,
        fn=None,
        log_loss=None,
        auroc=None,
        reason=LATER,
    )
    return SiteEvaluation(overall=overall, groups={})


def noised(
    called: Flags,
    positive: Flags,
    attributes: Mapping[str, Levels],
    intersections: Iterable[tuple[str, str]],
    std: float,
) -> SiteEvaluation:
    """Every table with noise.

    Args:
        called: (n,) whom the model calls positive. positive: (n,) who has the outcome.
        attributes: who is in each level, levels without patients and `unknown` included: which
            levels there are must not depend on patients.
        std: of the noise in each cell; it covers all tables together.
    """
    tables = families(attributes, intersections)
    everybody = np.ones(len(positive), np.bool_)
    source = NoiseSource()

    def tally(rows: Flags) -> BinaryTally:
        parts = (called & positive, called & ~positive, ~called & ~positive, ~called & positive)
        tp, fp, tn, fn = _count(parts, rows, std, source)
        return BinaryTally(
            n=tp + fp + tn + fn,
            positives=tp + fn,
            correct=tp + tn,
            tp=tp,
            fp=fp,
            tn=tn,
            fn=fn,
            log_loss=None,
            auroc=None,
            reason=ONLY_COUNTS,
        )

    return SiteEvaluation(
        overall=tally(everybody),
        groups={
            table: {level: tally(rows) for level, rows in levels.items()}
            for table, levels in tables.items()
        },
        noise_std=std,
    )


def _count(parts: Iterable[Flags], rows: Flags, std: float, source: NoiseSource) -> list[int]:
    true = np.array([int((part & rows).sum()) for part in parts])
    noisy = true + discrete_gaussian(true.shape, std, source)
    return [max(int(count), 0) for count in noisy]
