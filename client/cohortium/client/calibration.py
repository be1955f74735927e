"""Which questions about a model's calibration a site answers, as its coordinator chooses them.

Newton's method asks at points that follow from what sites answered before: these are the only
questions to a site that its coordinator makes up on the way. So they are few, of the final model
alone, near a calibrated one, and each is answered once (`replies.py` keeps the answers). What of
the sums may leave is decided in `common/metrics/calibration_disclosure.py`.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from cohortium.client.replies import Replies
from cohortium.common.document import Document
from cohortium.common.envelope import Header
from cohortium.common.errors import RefusedError
from cohortium.common.messages import Calibrate, Evaluated, Vector, body_sha256, unpack
from cohortium.common.metrics.calibration import (
    BOX,
    EVERYBODY,
    MAX_STEPS,
    START,
    Group,
    Point,
    Points,
    by_level,
    flat,
)
from cohortium.common.metrics.tallies import BinaryTally, SiteEvaluation
from cohortium.common.metrics.tally import UNKNOWN
from cohortium.common.study import Study

Flags = npt.NDArray[np.bool_]


class Inquiry(Document):
    """Where sums are asked for, and all groups whose means the site has shown, EVERYBODY too."""

    points: Points
    shown: tuple[Group, ...]


def admit(
    study: Study, header: Header, message: Calibrate, model: Vector, replies: Replies
) -> Inquiry:
    """What is asked of groups that may be answered; of the others nothing will be said.

    Raises:
        RefusedError: naming the rule that the question breaks.
    """
    if study.task.kind != "binary" or not study.evaluation.curves:
        raise RefusedError("calibration.study", "the study asks for no calibration")
    if header.round != study.training.rounds:
        raise RefusedError("calibration.round", "only the final model's calibration is told")
    if not 1 <= message.step <= MAX_STEPS:
        raise RefusedError("calibration.step", f"no more than {MAX_STEPS} steps are answered")
    evaluation = _last(header, message, model, replies)
    points = flat(message.points.overall, message.points.groups)
    known = {EVERYBODY, *flat(None, evaluation.groups)}
    if not points.keys() <= known:
        raise RefusedError("calibration.group", "the last evaluation has no such group")
    for point in points.values():
        _check(point, message.step)
    shown = tuple(sorted(_shown(evaluation)))
    return Inquiry(points=_only(points, shown), shown=shown)


def groups_of(study: Study, attributes: Mapping[str, npt.NDArray[np.int16]]) -> dict[Group, Flags]:
    """Who is in each level of each attribute and declared intersection.

    Args:
        attributes: (patients,) per fairness attribute: level, -1 unknown.
    """
    levels = {name: _levels(study, name, found) for name, found in attributes.items()}
    groups = {(a, level): who for a, found in levels.items() for level, who in found.items()}
    for one, other in study.fairness.intersections:
        for a, mine in levels[one].items():
            for b, theirs in levels[other].items():
                groups[f"{one} x {other}", f"{a} x {b}"] = mine & theirs
    return groups


def _levels(study: Study, name: str, found: npt.NDArray[np.int16]) -> dict[str, Flags]:
    levels = {level: found == place for place, level in enumerate(study.attribute_levels(name))}
    if (found < 0).any():
        levels[UNKNOWN] = levels.get(UNKNOWN, False) | (found < 0)
    return levels


def _last(header: Header, message: Calibrate, model: Vector, replies: Replies) -> SiteEvaluation:
    """What the site showed of the model that is asked about, if that is the final one."""
    kept = replies.of(header.study, "evaluate", header.round)
    if kept is None or kept[0] != body_sha256(message.evaluate, model):
        raise RefusedError(
            "calibration.model", "only the model of the last evaluation is asked about"
        )
    return unpack(kept[1].body, Evaluated)[0].evaluation


def _check(point: Point, step: int) -> None:
    if step == 1 and point != START:
        raise RefusedError("calibration.point", "the first step is at intercept 0 and slope 1")
    for value, (low, high) in zip((point.intercept, point.slope), BOX, strict=True):
        if not low <= value <= high:
            raise RefusedError(
                "calibration.point", f"intercepts and slopes within {BOX} are answered"
            )


def _shown(evaluation: SiteEvaluation) -> set[Group]:
    """The groups whose means were shown; none where counts have noise."""
    if evaluation.noise_std:
        return set()
    tallies = flat(evaluation.overall, evaluation.groups)
    return {
        group
        for group, tally in tallies.items()
        if isinstance(tally, BinaryTally) and tally.mean_score is not None
    }


def _only(points: Mapping[Group, Point], shown: tuple[Group, ...]) -> Points:
    kept = {group: point for group, point in points.items() if group in shown}
    return Points(overall=kept.get(EVERYBODY), groups=by_level(kept))
