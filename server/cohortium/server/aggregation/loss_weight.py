"""How much more a site counts whom the model serves badly: q-FFL's weights."""

from cohortium.common.loss import LOSS_CAP
from cohortium.common.training import Strategy

LEAST, MOST = 0.01, 100.0  # what a loss is taken for at least; at most, where it has no noise


def loss_weight(strategy: Strategy, loss: float | None, private: bool) -> float:
    """F^q of one site, 1 where the strategy has no q (Li et al. 2020, ICLR, q-FFL, equation 2).

    The gradient of q-FFL's objective is the sum over sites of p F^q times the gradient of F. We
    step along it by `strategy.learning_rate` with the weights p F^q normalised to 1, as for every
    other strategy; the paper's own step divides by an estimate of the curvature from |gradient|^2,
    which the noise of a private gradient would swell. q = 0 is FedAvg in both.

    Args:
        loss: as the site said; noise or a lie may put it anywhere.
    """
    if strategy.q is None or loss is None:
        return 1.0
    highest = LOSS_CAP if private else MOST
    return float(min(max(loss, LEAST), highest) ** strategy.q)
