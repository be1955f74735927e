"""What means over patients of places, pairs and inputs may say beyond their types."""

from cohortium.common.metrics.tallies import (
    ContactsTally,
    LabellingTally,
    ReconstructionTally,
    StateTally,
)
from cohortium.common.study import Study
from cohortium.common.task import LabellingTask
from cohortium.server.plausible_sums import OTHER_NAMES, ROUNDED, SUMS, at_most, counted, require

MOST_LOG_LOSS = 50.0  # nats; a site takes no probability for less than 1e-15


def check_places(study: Study, tally: LabellingTally) -> None:
    """Raise ProtocolError for what no sequences give."""
    assert isinstance(study.task, LabellingTask)
    require(set(tally.states) == set(study.task.states(study.data_model)), OTHER_NAMES)
    at_most(tally.measured, tally.n)
    counted(tally.measured, tally.right, tally.right2, tally.log_loss)
    require((tally.log_loss or 0) <= MOST_LOG_LOSS, SUMS)
    _shares(tally.right, tally.right2)
    states = list(tally.states.values())
    for state in states:
        _check_state(tally, state)
    for name in ("true", "called"):
        shares = [getattr(state, name) for state in states]
        known = [share for share in shares if share is not None]
        require(not known or len(known) == len(shares), SUMS)
        require(not known or abs(sum(known) - 1) <= 2 * ROUNDED, SUMS)


def _check_state(tally: LabellingTally, state: StateTally) -> None:
    values = list(state.model_dump().values())
    require(len({value is None for value in values}) == 1, SUMS)
    counted(tally.measured, *values)
    if state.true is None or state.called is None or state.right is None:
        return
    require(state.right <= min(state.true, state.called) * (1 + ROUNDED), SUMS)
    _shares(state.true, state.true2)
    _shares(state.right, state.right2)
    product, squares = state.product or 0.0, (state.true2 or 0.0) * (state.right2 or 0.0)
    require(product**2 <= squares * (1 + 4 * ROUNDED) + 1e-12, SUMS)


def check_pairs(tally: ContactsTally) -> None:
    """Raise ProtocolError for what no contact maps give."""
    at_most(tally.measured, tally.n)
    means = (tally.fifth, tally.top, tally.auroc, tally.contacts, tally.log_loss)
    counted(tally.measured, *means, tally.fifth2, tally.top2, tally.auroc2)
    require((tally.log_loss or 0) <= MOST_LOG_LOSS, SUMS)
    for mean, squares in (
        (tally.fifth, tally.fifth2),
        (tally.top, tally.top2),
        (tally.auroc, tally.auroc2),
    ):
        _shares(mean, squares)


def check_inputs(tally: ReconstructionTally) -> None:
    """Raise ProtocolError for what no inputs give."""
    shown = (tally.squared, tally.spread)
    moments = (tally.squared2, tally.spread2, tally.product)
    counted(tally.n, *shown, *moments)
    require((shown[0] is None) == (shown[1] is None), SUMS)
    require(len({one is None for one in moments}) == 1, SUMS)
    if tally.squared is None or tally.spread is None:
        require(moments[0] is None, SUMS)
        return
    if tally.squared2 is None or tally.spread2 is None or tally.product is None:
        return
    require(tally.squared**2 <= tally.squared2 * (1 + 2 * ROUNDED), SUMS)
    require(tally.spread**2 <= tally.spread2 * (1 + 2 * ROUNDED), SUMS)
    require(tally.product**2 <= tally.squared2 * tally.spread2 * (1 + 4 * ROUNDED), SUMS)


def _shares(mean: float | None, squares: float | None) -> None:
    """Shares squared lie between the square of their mean and their mean."""
    require((mean is None) == (squares is None), SUMS)
    if mean is not None and squares is not None:
        require(mean**2 <= squares * (1 + 2 * ROUNDED), SUMS)
        require(squares <= mean * (1 + ROUNDED), SUMS)
