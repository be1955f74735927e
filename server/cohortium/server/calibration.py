"""The final model's calibration over all sites: Newton's method, one question to them for a step.

Nothing is kept between steps. Whoever was interrupted begins with the last round again, and its
sites answer each step as before, from their stored replies, for the points follow from the replies.
A site that stays silent or refuses is left out of the fit from then on, which ends at the best fit
of the others; what it said before has only led there.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from cohortium.common.errors import ProtocolError
from cohortium.common.messages import Calibrate, Calibrated, Evaluate
from cohortium.common.metrics.calibration import (
    BOX,
    EVERYBODY,
    FURTHEST,
    MAX_STEPS,
    Found,
    Group,
    Point,
    Points,
    PooledCalibration,
    PooledFit,
    Sums,
    by_level,
    flat,
    newton,
    pooled_fit,
)
from cohortium.common.metrics.tallies import BinaryTally
from cohortium.server.aggregation.optimizer import final_model
from cohortium.server.desk import Desk
from cohortium.server.round import Exchange, Plan, Progress
from cohortium.server.store import RoundRecord

NOT_SHOWN = "no site shows it"
LOST = "no site answered every step"
SLACK = 1e-6
COARSEST = 100.0  # variance of the rounding that a site may say it has done

Tallies = Mapping[Group, BinaryTally]  # one site's, of groups whose means it shows


@dataclass
class Fitting:
    """One group's fit as it goes on, over the sites that have answered every step so far."""

    sites: tuple[str, ...]
    point: Point | None = None
    found: Found = NOT_SHOWN

    def __post_init__(self) -> None:
        self._steps, self._begun = newton(MAX_STEPS, BOX), False
        if self.sites:
            self.point = next(self._steps)

    def hear(self, answers: Mapping[str, Sums]) -> None:
        """Go on with what the sites said at the point; without any of them, end."""
        self.sites = tuple(site for site in self.sites if site in answers)
        self.point = None
        if not self.sites:
            self.found = LOST if self._begun else NOT_SHOWN
            return
        self._begun = True
        total = answers[self.sites[0]]
        for site in self.sites[1:]:
            total = total + answers[site]
        try:
            self.point = self._steps.send(total)
        except StopIteration as end:
            self.found = end.value

    @property
    def result(self) -> PooledFit:
        return pooled_fit(self.found, self.sites)


def calibrated(plan: Plan, desk: Desk, progress: Progress, record: RoundRecord) -> RoundRecord:
    """The last round's record with the calibration of its model, if the study wants curves."""
    study = plan.study
    if study.task.kind != "binary" or not study.evaluation.curves or not record.evaluations:
        return record
    desk.store.say(study.digest, "calibration of the final model")
    shown = {site: _shown(record, site) for site in plan.sites if site in record.evaluations}
    fits = {
        group: Fitting(tuple(site for site in shown if group in shown[site]))
        for group in _groups(record)
    }
    seen = Exchange(received={site: dict(kinds) for site, kinds in record.received.items()})
    steps = 0
    while points := {group: fit.point for group, fit in fits.items() if fit.point is not None}:
        steps += 1
        answers = _ask(plan, desk, progress, _Step(record.round, steps, points, shown), seen)
        for group in points:
            fits[group].hear({s: found[group] for s, found in answers.items() if group in found})
    results = {group: fit.result for group, fit in fits.items()}
    calibration = PooledCalibration(
        overall=results[EVERYBODY],
        groups=by_level(results),
        steps=steps,
        refused=seen.refused,
    )
    return record.model_copy(update={"calibration": calibration, "received": seen.received})


@dataclass(frozen=True)
class _Step:
    """One question: its number, where it asks for sums, and whose means each site shows."""

    round: int
    number: int
    points: Mapping[Group, Point]
    shown: dict[str, Tallies] = field(repr=False)


def _ask(
    plan: Plan, desk: Desk, progress: Progress, step: _Step, seen: Exchange
) -> dict[str, dict[Group, Sums]]:
    """What each site says; one that says nothing is not asked again."""
    question = Calibrate(
        evaluate=Evaluate(statistics=plan.statistics),
        step=step.number,
        points=Points(overall=step.points.get(EVERYBODY), groups=by_level(step.points)),
    )
    found: dict[str, dict[Group, Sums]] = {}
    for said in desk.talk.ask(
        tuple(step.shown),
        question,
        Calibrated,
        round=step.round,
        deadline_s=plan.study.sites.round_deadline,
        body=progress.packed(question, final_model(progress.state)),
    ):
        asked = {g: t for g, t in step.shown[said.site].items() if g in step.points}
        message = seen.note(said, partial(check_sums, asked))
        if message is not None:
            found[said.site] = flat(message.overall, message.groups)
    for silent in step.shown.keys() - found.keys():
        del step.shown[silent]
    return found


def _groups(record: RoundRecord) -> tuple[Group, ...]:
    """Every group that any site names, in the order of the study."""
    groups = (flat(e.overall, e.groups) for e in record.evaluations.values())
    return tuple(dict.fromkeys(group for found in groups for group in found))


def _shown(record: RoundRecord, site: str) -> Tallies:
    evaluation = record.evaluations[site]
    return {
        group: tally
        for group, tally in flat(evaluation.overall, evaluation.groups).items()
        if isinstance(tally, BinaryTally) and tally.mean_score is not None
    }


def check_sums(tallies: Tallies, message: Calibrated) -> None:
    """Raise ProtocolError for sums that no patients give, as many as the site has counted.

    Args:
        tallies: of the groups that were asked and whose means the site has shown.
    """
    for group, sums in flat(message.overall, message.groups).items():
        if group not in tallies:
            raise ProtocolError("sums of a group that was not asked, or has no means")
        if not _possible(sums, tallies[group].n or 0):
            raise ProtocolError("sums for calibration that no patients give")


def _possible(sums: Sums, n: int) -> bool:
    slack = SLACK + math.sqrt(12 * sums.rounding)
    a, b, c = sums.information
    values = (*sums.gradient, *sums.information)
    most = (n, n * FURTHEST, n / 4, n / 4 * FURTHEST, n / 4 * FURTHEST**2)
    return (
        sums.rounding <= COARSEST
        and min(a, c) >= -slack
        and b * b <= (a + slack) * (c + slack)
        and all(abs(value) <= high + slack for value, high in zip(values, most, strict=True))
    )
