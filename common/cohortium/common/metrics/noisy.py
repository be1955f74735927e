"""A site's evaluation where counts leave with noise that is paid for, instead of with some hidden.

Micro cells are outcome x called at the study's first threshold, in every group of every family: all
patients, each attribute, each declared intersection. Each cell gets noise of its own; a count is a
sum of noisy cells of its group, none of them below zero, and counts of one group agree with each
other, but not with those of other groups. Nothing else is told: no further threshold, no bins, no
AUROC and no mean, and nothing before the last evaluation of the final model.

Models beside the federated one were trained without noise on other patients of the site: counts of
where they are right would tell of those, whom noise of this size does not hide. They do not leave.
"""

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from cohortium.common.metrics.cube import Flags, families
from cohortium.common.metrics.facets import table_levels
from cohortium.common.metrics.tallies import (
    UNKNOWN,
    Beside,
    BinaryTally,
    Comparison,
    SiteEvaluation,
)
from cohortium.common.privacy.count_noise import CountNoise
from cohortium.common.privacy.discrete_gaussian import draws
from cohortium.common.study import Study

NOISY = "only counts leave, with noise"
EARLIER = "only the last evaluation leaves, with noise"
WITHOUT_NOISE = "counts with noise would not hide whom the other model was trained on"
CELLS = 4  # tn, fp, fn, tp
CLEAR = 3  # so many standard deviations of noise above nobody, `unknown` is a group

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Tables = Mapping[str, Mapping[str, Counts]]


def nothing() -> SiteEvaluation:
    """What leaves of a model that is not the final one."""
    return SiteEvaluation(overall=_hidden(EARLIER), groups={})


def evaluate(
    predicted: Floats,
    outcome: Floats,
    attributes: Mapping[str, NDArray[np.int16]],
    study: Study,
    noise: CountNoise,
    others: Iterable[str] = (),
) -> SiteEvaluation:
    """Counts with noise, of a yes or no outcome.

    Args:
        predicted: (n,) probabilities of the federated model.
        outcome: (n,) 1.0 or 0.0.
        attributes: (n,) per fairness attribute: level, -1 unknown.
        others: models that a study asks to be beside it.
    """
    above = predicted > study.evaluation.thresholds[0]
    micro = 2 * (outcome > 0.5) + above
    levels = {name: _members(study, name, attributes[name]) for name in study.fairness.attributes}
    tables = families(levels, study.fairness.intersections)
    if 1 + len(tables) != noise.families:
        raise ValueError("the noise was made for other families of counts")
    overall = _noised(micro, noise)
    counted = {
        name: {level: _noised(micro[rows], noise) for level, rows in table.items()}
        for name, table in tables.items()
    }
    shown = {name: _there(study, name, table, noise) for name, table in counted.items()}
    return SiteEvaluation(
        overall=_tally(overall),
        groups={
            name: {level: _tally(counts) for level, counts in table.items()}
            for name, table in shown.items()
        },
        beside={name: _beside(shown) for name in others},
        noise_std=noise.std,
    )


def _members(study: Study, name: str, found: NDArray[np.int16]) -> dict[str, Flags]:
    """Every level and `unknown`, whether or not anybody is in it: that, too, would tell."""
    members = {level: found == place for place, level in enumerate(study.attribute_levels(name))}
    members[UNKNOWN] = (found < 0) | members.get(UNKNOWN, False)
    return members


def _noised(micro: NDArray[np.integer], noise: CountNoise) -> Counts:
    """(4,) counts of the micro cells with noise: these may be below zero."""
    found: Counts = np.bincount(micro, minlength=CELLS) + draws(CELLS, noise.variance)
    return found


def _there(
    study: Study, name: str, table: Mapping[str, Counts], noise: CountNoise
) -> dict[str, Counts]:
    """A table without undeclared levels that, by their noisy counts, may well be empty."""
    declared = table_levels(study)[name]
    least = CLEAR * noise.std * CELLS**0.5
    return {
        level: counts
        for level, counts in table.items()
        if level in declared or counts.sum() > least
    }


def _tally(counts: Counts) -> BinaryTally:
    tn, fp, fn, tp = (max(0, int(count)) for count in counts)
    return BinaryTally(
        n=tn + fp + fn + tp,
        positives=tp + fn,
        correct=tp + tn,
        tp=tp,
        fp=fp,
        tn=tn,
        fn=fn,
        log_loss=None,
        auroc=None,
        reason=NOISY,
    )


def _hidden(reason: str) -> BinaryTally:
    return BinaryTally(
        n=None,
        positives=None,
        correct=None,
        tp=None,
        fp=None,
        tn=None,
        fn=None,
        log_loss=None,
        auroc=None,
        reason=reason,
    )


def _beside(tables: Tables) -> Beside:
    """Nothing, and why."""
    nothing = Comparison(
        both=None, federated_only=None, other_only=None, neither=None, reason=WITHOUT_NOISE
    )
    return Beside(
        overall=nothing,
        groups={name: dict.fromkeys(table, nothing) for name, table in tables.items()},
    )
