"""What a verified evaluation may say beyond its types: counts and means that some table gives.

Counts that contradict each other would break the arithmetic of the report, or be a hospital's way
to make a model look as it likes.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

from cohortium.common.document import one_line
from cohortium.common.errors import ProtocolError
from cohortium.common.explaining.told import check_told
from cohortium.common.metrics.facets import table_levels
from cohortium.common.metrics.tallies import (
    UNKNOWN,
    BinaryTally,
    Bins,
    Calibration,
    Comparison,
    SiteEvaluation,
    Tally,
)
from cohortium.common.metrics.tally import BINS
from cohortium.common.privacy.plan import planned_noise
from cohortium.common.study import Study
from cohortium.server.plausibility import MAX_ROWS
from cohortium.server.plausible_outcomes import check_other

MAX_REASON = 200
SMALLEST, LARGEST = 1e-60, 1e60  # of numbers other than 0
ROUNDED = 0.006  # more than rounding at the site can move what is compared here
LEAST_VARIANCE = 1e-24  # one pair of MAX_ROWS patients in another order gives more
SHARE = 1.02  # by which rounding to three digits may take a moment beyond its bound

COUNTED = {"kind", "n", "positives", "correct", "tp", "fp", "tn", "fn", "reason"}
CONTRADICTION = "an evaluation with counts that contradict each other"


def check_evaluation(study: Study, evaluation: SiteEvaluation, last: bool) -> None:
    """Raise ProtocolError for groups that the study does not name, or impossible numbers.

    Args:
        last: of the final model, the only one that is measured by group and beside others.
    """
    levels = table_levels(study, UNKNOWN)
    if set(evaluation.groups) != (set(levels) if last else set()):
        raise ProtocolError("an evaluation by other attributes than the study names")
    for name, found in evaluation.groups.items():
        if not set(found) <= levels[name]:
            raise ProtocolError(f"an evaluation with levels that {name} does not have")
    if not set(evaluation.beside) <= (_asked_beside(study) if last else set()):
        raise ProtocolError("an evaluation beside models that the study does not ask for")
    if evaluation.explained:
        _check_explained(study, evaluation, last)
    _check_noise(study, evaluation, last)
    _check_magnitudes(evaluation.model_dump())
    for tally in (evaluation.overall, *_of_groups(evaluation.groups)):
        _check_tally(study, tally)
    for beside in evaluation.beside.values():
        for one in (beside.overall, *_of_groups(beside.groups)):
            _check_comparison(one)


def _check_explained(study: Study, evaluation: SiteEvaluation, last: bool) -> None:
    if not last:
        raise ProtocolError("an explanation of a model that is not the final one")
    try:
        check_told(study, evaluation.explained)
    except ValueError as error:
        raise ProtocolError(str(error)) from None


def _check_noise(study: Study, evaluation: SiteEvaluation, last: bool) -> None:
    """Counts have the noise that the study gives them, and then nothing but counts is there."""
    noise = planned_noise(study)
    std = noise.std if noise is not None and last else 0.0
    if not math.isclose(evaluation.noise_std, std, rel_tol=1e-3):
        raise ProtocolError("an evaluation with other noise in it than the study's")
    if noise is None:
        return
    for tally in (evaluation.overall, *_of_groups(evaluation.groups)):
        others = tally.model_dump(exclude=COUNTED).values()
        if any(value not in (None, ()) for value in others):
            raise ProtocolError("an evaluation with more than the counts that have noise")
    if not last and evaluation.overall.n is not None:
        raise ProtocolError("an evaluation of a model whose counts no noise is paid for")


def _check_magnitudes(value: Any) -> None:
    """No sum of people's is so near to 0, or so large, that its square is lost."""
    if isinstance(value, Mapping):
        value = value.values()
    if isinstance(value, float):
        if value and not SMALLEST <= abs(value) <= LARGEST:
            raise ProtocolError("an evaluation with numbers that no patients give")
    elif isinstance(value, Iterable) and not isinstance(value, str):
        for part in value:
            _check_magnitudes(part)


def _check_tally(study: Study, tally: Tally) -> None:
    _check_size(tally)
    if isinstance(tally, BinaryTally) and study.task.kind == "binary":
        _check_binary(tally, study)
    elif not isinstance(tally, BinaryTally):
        check_other(study, tally, lambda one: _check_binary(one, study))
    else:
        raise ProtocolError("an evaluation of another kind of outcome than the study's")


def _check_size(tally: Tally) -> None:
    if (tally.n or 0) >= MAX_ROWS or one_line(tally.reason, MAX_REASON) != tally.reason:
        raise ProtocolError("an evaluation that no site makes")


def _asked_beside(study: Study) -> set[str]:
    asked = {
        "own": study.evaluation.own_model,
        "recalibrated": study.mitigation.recalibrate,
        "personal": study.mitigation.ditto is not None,
    }
    return {name for name, wanted in asked.items() if wanted}


def _of_groups(groups: Mapping[str, Mapping[str, Any]]) -> Iterator[Any]:
    return (one for levels in groups.values() for one in levels.values())


def _check_binary(tally: BinaryTally, study: Study) -> None:
    _check_size(tally)
    _check_counts(tally)
    _check_further(tally, study.evaluation.thresholds)
    _check_means(tally)
    if tally.bins is not None:
        _check_bins(tally.bins, tally)
    if tally.calibration is not None:
        _check_calibration(tally.calibration)


def _check_counts(tally: BinaryTally) -> None:
    """A part is at most its whole; who hides how many patients there are hides every count."""
    n, positives = tally.n or 0, tally.positives or 0
    counts = (tally.positives, tally.correct, tally.tp, tally.fp, tally.tn, tally.fn)
    shown = [count for count in counts if count is not None]
    called = (tally.tp or 0) + (tally.fp or 0)
    if max([called, *shown], default=0) > n or (tally.tp or 0) > positives:
        raise ProtocolError(CONTRADICTION)
    if None not in (tally.tp, tally.fp, tally.tn, tally.fn):
        ill, well = (tally.tp or 0) + (tally.fn or 0), (tally.fp or 0) + (tally.tn or 0)
        right = (tally.tp or 0) + (tally.tn or 0)
        if (ill, ill + well, right) != (tally.positives, tally.n, tally.correct):
            raise ProtocolError(CONTRADICTION)


def _check_further(tally: BinaryTally, thresholds: tuple[float, ...]) -> None:
    """The higher the threshold, the fewer score above it; at most all with, or without, outcome."""
    if not tally.further:
        return
    if len(tally.further) >= len(thresholds):
        raise ProtocolError("an evaluation at more thresholds than the study names")
    if None in (tally.n, tally.positives, tally.tp, tally.fp):
        raise ProtocolError("an evaluation that shows a further threshold but not the first")
    calls = [(tally.tp or 0, tally.fp or 0), *((c.tp, c.fp) for c in tally.further)]
    pairs = sorted(zip(thresholds, calls, strict=False))
    falling = [(tally.positives or 0, (tally.n or 0) - (tally.positives or 0))]
    falling += [called for _, called in pairs]
    for (tp, fp), (fewer_tp, fewer_fp) in pairwise(falling):
        if fewer_tp > tp or fewer_fp > fp:
            raise ProtocolError("an evaluation whose thresholds contradict each other")


def _check_means(tally: BinaryTally) -> None:
    """Squared errors of probabilities are at most 1, and their squares below them."""
    means = (tally.auroc_variance, tally.auprc, tally.brier, tally.brier_squares, tally.mean_score)
    if any(mean is not None for mean in means) and None in (tally.n, tally.positives):
        raise ProtocolError("an evaluation with means over patients whom it does not count")
    variance = tally.auroc_variance
    if variance is not None and (tally.auroc is None or 0 < variance < LEAST_VARIANCE):
        raise ProtocolError("an evaluation with a variance that no AUROC has")
    if tally.brier is None or tally.brier_squares is None:
        return
    if not tally.brier**2 - ROUNDED <= tally.brier_squares <= tally.brier + ROUNDED:
        raise ProtocolError("an evaluation with squared errors that contradict each other")


def _check_bins(bins: Bins, tally: BinaryTally) -> None:
    """The bins hold every patient once, and a mean lies within its bin."""
    count = len(bins.n)
    if count not in BINS or not count == len(bins.positives) == len(bins.mean_score):
        raise ProtocolError("an evaluation with bins that no study has")
    more_ill = any(ill > n for ill, n in zip(bins.positives, bins.n, strict=True))
    if more_ill or (sum(bins.n), sum(bins.positives)) != (tally.n, tally.positives):
        raise ProtocolError("an evaluation whose bins contradict its counts")
    for place, mean in enumerate(bins.mean_score):
        if mean is not None and not place - ROUNDED <= mean * count <= place + 1 + ROUNDED:
            raise ProtocolError("an evaluation with a mean score outside its bin")


def _check_calibration(fit: Calibration) -> None:
    most = fit.intercept_variance * fit.slope_variance * SHARE
    if fit.covariance**2 > most:
        raise ProtocolError("an evaluation with a calibration that no fit gives")


def _check_comparison(one: Comparison) -> None:
    counts = (one.both, one.federated_only, one.other_only, one.neither)
    hidden = [count is None for count in counts]
    if any(hidden) != all(hidden):
        raise ProtocolError("an evaluation that shows some of four counts that belong together")
    total = sum(count or 0 for count in counts)
    if total >= MAX_ROWS or one_line(one.reason, MAX_REASON) != one.reason:
        raise ProtocolError("an evaluation that no site makes")
