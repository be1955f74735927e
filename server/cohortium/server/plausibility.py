"""What a verified reply may say beyond its types, so that one hostile site cannot harm the rest.

A signature proves who speaks, not that it makes sense: a weight of 1e30 would replace the average,
sums of another width would end the study for everybody, and counts that contradict each other
would break the arithmetic of the report.
"""

from cohortium.common import bands
from cohortium.common.errors import ProtocolError
from cohortium.common.messages import Update, Validated
from cohortium.common.preprocessing.encode import scaled_inputs
from cohortium.common.preprocessing.statistics import Statistics
from cohortium.common.study import Study

MAX_LOSS = 1e9
MAX_ROWS = 2**24  # whole weights up to here keep the weighted sum exact (aggregation/fold.py)
NOMINAL = frozenset(bands.nominal(edge) for edge in bands.EDGES)


def check_update(study: Study, update: Update, steps_before: int = 0) -> None:
    """Raise ProtocolError for a weight or a privacy account that the study cannot give.

    Args:
        steps_before: what the site's ledger held of this study after the round before.
    """
    _check_weight(study, update.weight)
    if (update.loss is not None) != (study.strategy.q is not None):
        raise ProtocolError("an update tells its loss if, and only if, the study asks for it")
    if (update.spent is not None) != (study.privacy.mechanism != "none"):
        raise ProtocolError("an update says what it spent if, and only if, the study is private")
    if update.spent is not None and update.spent.steps <= steps_before:
        raise ProtocolError(
            f"the site's ledger holds {update.spent.steps} steps of this study, after "
            f"{steps_before} in the round before: was its database restored from an old backup?"
        )


def _check_weight(study: Study, weight: float) -> None:
    weighting = study.strategy.weighting
    possible = {
        "equal": weight == 1,
        "bands": weight in NOMINAL,
        "exact": weight < MAX_ROWS and weight.is_integer(),
    }
    if not possible[weighting]:
        raise ProtocolError(f'weighting "{weighting}" gives no such weight as the site sent')


def check_validated(study: Study, said: Validated) -> None:
    """Raise ProtocolError for a weight or a loss that the study cannot give."""
    _check_weight(study, said.weight)
    if said.loss is not None and not abs(said.loss) < MAX_LOSS:
        raise ProtocolError("a loss on validation patients that no model has")


def check_statistics(study: Study, statistics: Statistics | None) -> None:
    """Raise ProtocolError for sums that no table of this study's inputs has."""
    if statistics is None:
        raise ProtocolError("the site sent no statistics")
    inputs = scaled_inputs(study)
    if len(statistics.total) != inputs:
        raise ProtocolError(
            f"statistics of {len(statistics.total)} inputs where the study has {inputs}"
        )
    if not 0 < statistics.count < MAX_ROWS or min(statistics.squares) < 0:
        raise ProtocolError("statistics that no table has")
