"""What a verified reply may say beyond its types, so that one hostile site cannot harm the rest.

A signature proves who speaks, not that it makes sense: a weight of 1e30 would replace the average,
sums of another width would end the study for everybody, and counts that contradict each other
would break the arithmetic of the report.
"""

from itertools import pairwise

from cohortium.common import bands
from cohortium.common.document import one_line
from cohortium.common.errors import ProtocolError
from cohortium.common.messages import Update
from cohortium.common.metrics.tallies import BinaryTally, SiteEvaluation
from cohortium.common.metrics.tally import UNKNOWN
from cohortium.common.preprocessing.encode import feature_names
from cohortium.common.preprocessing.statistics import Statistics
from cohortium.common.study import Study

MAX_ROWS = 2**24  # whole weights up to here keep the weighted sum exact (aggregation/fold.py)
MAX_REASON = 200
ROUNDED = 0.006  # more than rounding at the site can move what is compared here
LEAST_VARIANCE = 1e-24  # one pair of MAX_ROWS patients in another order gives more
NOMINAL = frozenset(bands.nominal(edge) for edge in bands.EDGES)


def check_update(study: Study, update: Update, steps_before: int = 0) -> None:
    """Raise ProtocolError for a weight or a privacy account that the study cannot give.

    Args:
        steps_before: what the site's ledger held of this study after the round before.
    """
    weighting, weight = study.strategy.weighting, update.weight
    possible = {
        "equal": weight == 1,
        "bands": weight in NOMINAL,
        "exact": weight < MAX_ROWS and weight.is_integer(),
    }
    if not possible[weighting]:
        raise ProtocolError(f'weighting "{weighting}" gives no such weight as the site sent')
    if (update.loss is not None) != (study.strategy.q is not None):
        raise ProtocolError("an update tells its loss if, and only if, the study asks for it")
    if (update.spent is not None) != (study.privacy.mechanism != "none"):
        raise ProtocolError("an update says what it spent if, and only if, the study is private")
    if update.spent is not None and update.spent.steps <= steps_before:
        raise ProtocolError(
            f"the site's ledger holds {update.spent.steps} steps of this study, after "
            f"{steps_before} in the round before: was its database restored from an old backup?"
        )


def check_statistics(study: Study, statistics: Statistics) -> None:
    """Raise ProtocolError for sums that no table of this study's inputs has."""
    intercepts = len(study.sites.names) if study.preprocessing.site_intercept else 0
    inputs = len(feature_names(study)) - intercepts
    if len(statistics.total) != inputs:
        raise ProtocolError(
            f"statistics of {len(statistics.total)} inputs where the study has {inputs}"
        )
    if not 0 < statistics.count < MAX_ROWS or min(statistics.squares) < 0:
        raise ProtocolError("statistics that no table has")


def check_evaluation(study: Study, evaluation: SiteEvaluation) -> None:
    """Raise ProtocolError for groups that the study does not name, or impossible counts."""
    if set(evaluation.groups) != set(study.fairness.attributes):
        raise ProtocolError("an evaluation by other attributes than the study names")
    for name, levels in evaluation.groups.items():
        if not set(levels) <= {*study.attribute_levels(name), UNKNOWN}:
            raise ProtocolError(f"an evaluation with levels that {name} does not have")
    for tally in (evaluation.overall, *(t for g in evaluation.groups.values() for t in g.values())):
        _check_tally(tally)
        _check_further(tally, study.evaluation.thresholds)
        _check_means(tally)


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
    means = (tally.auroc_variance, tally.brier, tally.brier_squares, tally.mean_score)
    if any(mean is not None for mean in means) and None in (tally.n, tally.positives):
        raise ProtocolError("an evaluation with means over patients whom it does not count")
    variance = tally.auroc_variance
    if variance is not None and (tally.auroc is None or 0 < variance < LEAST_VARIANCE):
        raise ProtocolError("an evaluation with a variance that no AUROC has")
    if tally.brier is None or tally.brier_squares is None:
        return
    if not tally.brier**2 - ROUNDED <= tally.brier_squares <= tally.brier + ROUNDED:
        raise ProtocolError("an evaluation with squared errors that contradict each other")


def _check_tally(tally: BinaryTally) -> None:
    """A part is at most its whole; who hides how many patients there are hides every count."""
    n, positives = tally.n or 0, tally.positives or 0
    counts = (tally.positives, tally.correct, tally.tp, tally.fp, tally.tn, tally.fn)
    shown = [count for count in counts if count is not None]
    called = (tally.tp or 0) + (tally.fp or 0)
    if max([called, *shown], default=0) > n or (tally.tp or 0) > positives:
        raise ProtocolError("an evaluation with counts that contradict each other")
    if None not in (tally.tp, tally.fp, tally.tn, tally.fn):
        ill, well = (tally.tp or 0) + (tally.fn or 0), (tally.fp or 0) + (tally.tn or 0)
        right = (tally.tp or 0) + (tally.tn or 0)
        if (ill, ill + well, right) != (tally.positives, tally.n, tally.correct):
            raise ProtocolError("an evaluation with counts that contradict each other")
    if n >= MAX_ROWS or one_line(tally.reason, MAX_REASON) != tally.reason:
        raise ProtocolError("an evaluation that no site makes")
