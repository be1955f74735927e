"""Leave-one-site-out within one study: which model a round trains, and who takes part in it.

Track 0 is the main model, over all sites, in rounds 1 to R. Track k, from 1, is the same training
from the same initial model without the k-th training site, in rounds k R + 1 to (k + 1) R. Rounds
are one sequence, so that ledgers, stored replies and checkpoints need to know nothing of it; each
site derives from the study that it approved what a round is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cohortium.common.study import Study


@dataclass(frozen=True)
class Track:
    """Where a round stands: `round` counts from 1 to `rounds` within its track.

    Attributes:
        number: 0 for the main model.
        left_out: the site that a track does without; empty for the main model.
    """

    number: int
    left_out: str
    round: int
    rounds: int

    @property
    def main(self) -> bool:
        return self.number == 0

    @property
    def first(self) -> bool:
        return self.round == 1

    @property
    def last(self) -> bool:
        return self.round == self.rounds

    @property
    def final(self) -> bool:
        """Whether the round ends the main model, the one that is reported and released."""
        return self.main and self.last


def track(round: int, rounds: int, left_out: Sequence[str]) -> Track:
    """The place of a round, counted from 1 over all tracks of `rounds` each.

    Args:
        left_out: the site of each further track, in their order.

    Raises:
        ValueError: the study has no such round.
    """
    number, before = divmod(round - 1, rounds)
    if not 0 <= number <= len(left_out):
        raise ValueError(f"no round {round} in {1 + len(left_out)} tracks of {rounds}")
    return Track(number, left_out[number - 1] if number else "", before + 1, rounds)


def check_left_out(study: "Study") -> None:
    """Raise ValueError where sites shall, and cannot, be left out one after the other."""
    if not study.evaluation.leave_one_site_out:
        return
    why = ""
    if len(study.left_out) < 2:
        why = "needs two sites or more that train"
    elif study.measures_first:
        why = (
            "would prepare inputs by statistics that the site left out is part of; use another "
            "scaling, and no preprocessing.reduce but a random one"
        )
    elif study.preprocessing.site_intercept:
        why = "would leave the intercept of the site left out untrained; remove site_intercept"
    elif study.continues is not None:
        why = "needs a fresh model, and this study goes on from one that has seen every site"
    if why:
        raise ValueError(f"evaluation.leave_one_site_out {why}")
