"""The epsilon of a plan by a program that shares no code with the one that is reported.

Poisson samples: the PRV accountant of Opacus (Gopi, Lee, Wutschitz 2021), where it is installed.
Full batches, whose epsilon we take from a closed form: dp-accounting's privacy-loss distributions.
It costs up to a second, and is paid once, when a study's whole plan is set aside.
"""

import functools
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec

from dp_accounting.pld import PLDAccountant

from cohortium.common.privacy import accounting
from cohortium.common.privacy.accounting import ORDERS, Mechanism
from cohortium.common.privacy.ledger_row import Accountant, CrossCheck

TOLERANCE = 0.02  # absolute up to epsilon 1, relative above
PRV_ERROR = 0.01  # by which Opacus reports more than its own estimate
PRV_MAX_EPSILON = 20.0  # beyond it takes gigabytes, and fails often
FAILURES = (ArithmeticError, IndexError, MemoryError, RuntimeError, ValueError)


def cross_check(mechanisms: Sequence[Mechanism], delta: float) -> CrossCheck | None:
    """The second opinion on `accounting.epsilon`.

    Where PRV is known to fail (large epsilon, tiny delta) it is Opacus' Renyi bound, with `bound`
    among the settings: then `agrees` says only that what we report is not above it.

    Returns:
        None where there is nothing to check, or no other program here.
    """
    run = tuple(m for m in mechanisms if m.steps)
    if not run:
        return None
    return _checked(run, delta)


@functools.lru_cache(maxsize=64)
def _checked(mechanisms: tuple[Mechanism, ...], delta: float) -> CrossCheck | None:
    ours = accounting.epsilon(mechanisms, delta)
    if all(m.sampler == "full-batch" for m in mechanisms) and ours <= accounting.PLD_MAX_EPSILON:
        found = _by_loss(mechanisms, delta, ours)
        return _opinion(ours, found, "dp-accounting PLD", mechanisms, delta)
    if find_spec("opacus") is None:
        return None
    try:
        if ours > PRV_MAX_EPSILON:
            raise ValueError(f"epsilon above {PRV_MAX_EPSILON:g}")
        found = _by_prv(mechanisms, delta)
    except FAILURES as error:
        bound = _by_renyi(mechanisms, delta)
        check = _opinion(ours, bound, "Opacus RDP", mechanisms, delta, _reason(error))
        return check.model_copy(update={"agrees": ours <= bound * (1 + 1e-9)})
    return _opinion(ours, found, "Opacus PRV", mechanisms, delta)


def agree(one: float, other: float) -> bool:
    """Whether two programs say the same: within 0.02, or 2 % where that is more."""
    return abs(one - other) <= TOLERANCE * max(1.0, one, other)


def _by_loss(mechanisms: Sequence[Mechanism], delta: float, ours: float) -> float:
    interval = max(1e-4, ours / 20_000)  # no more than so many steps: a second at most
    accountant = PLDAccountant(value_discretization_interval=interval)
    for mechanism in mechanisms:
        accountant.compose(mechanism.event())
    return float(accountant.get_epsilon(delta))


def _by_prv(mechanisms: Sequence[Mechanism], delta: float) -> float:
    from opacus.accountants import PRVAccountant  # slow to import: torch

    accountant = PRVAccountant()
    accountant.history = [(m.noise_multiplier, m.sample_rate, m.steps) for m in mechanisms]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(accountant.get_epsilon(delta, eps_error=PRV_ERROR))


def _by_renyi(mechanisms: Sequence[Mechanism], delta: float) -> float:
    from opacus.accountants.analysis.rdp import compute_rdp, get_privacy_spent

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rdp = sum(
            compute_rdp(
                q=m.sample_rate, noise_multiplier=m.noise_multiplier, steps=m.steps, orders=ORDERS
            )
            for m in mechanisms
        )
        return float(get_privacy_spent(orders=ORDERS, rdp=rdp, delta=delta)[0])


def _opinion(
    ours: float,
    theirs: float,
    name: str,
    mechanisms: Sequence[Mechanism],
    delta: float,
    failure: str = "",
) -> CrossCheck:
    settings = {"delta": repr(delta), "steps": str(sum(m.steps for m in mechanisms))}
    if name == "Opacus PRV":
        settings["eps_error"] = repr(PRV_ERROR)
    if failure:
        settings |= {"bound": "upper", "prv": failure}
    package = "dp-accounting" if name.startswith("dp") else "opacus"
    return CrossCheck(
        accountant=Accountant(name=name, version=version(package), settings=settings),
        epsilon=f"{theirs:.6f}",
        agrees=agree(ours, theirs),
    )


def _reason(error: Exception) -> str:
    words = " ".join(str(error).split())
    return f"failed: {words or type(error).__name__}"[:120]
