"""How many members the best possible attacker finds, from the mechanisms of a ledger's rows."""

import functools
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from pydantic import ValidationError

from cohortium.common.privacy.ledger_row import LedgerRow

FALSE_ALARMS = 0.01


def found_by_an_attacker(rows: Sequence[LedgerRow]) -> float | None:
    """Share of members found at 1 % false alarms, all rows composed; None where it fails."""
    spent: Counter[tuple[Literal["poisson", "full-batch"], float, float]] = Counter()
    for row in rows:
        spent[row.sampler, float(row.sample_rate), float(row.noise_multiplier)] += row.steps
    return _found(tuple((*key, steps) for key, steps in sorted(spent.items())))


@functools.lru_cache(maxsize=256)
def _found(
    spent: tuple[tuple[Literal["poisson", "full-batch"], float, float, int], ...],
) -> float | None:
    from cohortium.common.privacy.accounting import (  # slow to import: dp-accounting and scipy
        Mechanism,
        true_positive_rate,
    )

    try:
        mechanisms = [
            Mechanism(sampler=sampler, sample_rate=rate, noise_multiplier=noise, steps=steps)
            for sampler, rate, noise, steps in spent
        ]
        return true_positive_rate(mechanisms, FALSE_ALARMS)
    except (ArithmeticError, MemoryError, ValidationError, ValueError):
        return None
