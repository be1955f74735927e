"""What a coordinator could try with the questions that it makes up: the calibration's steps."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.asking import Asker, Heard
from tests.federation import FULL, PLAIN, approve, make_site, write_study

from cohortium.client.calibration import groups_of
from cohortium.client.site import open_site
from cohortium.common.evaluating import Fairness
from cohortium.common.identity import SigningKey
from cohortium.common.messages import Calibrate, Calibrated, Evaluate, Evaluated, Vector
from cohortium.common.metrics.calibration import BOX, MAX_STEPS, START, Point, Points
from cohortium.common.metrics.tallies import BinaryTally
from cohortium.common.study import Study
from cohortium.server.coordinator import initial_model

LAST = 3
BOTH = {"sex": {"female": START, "male": START}}
NEAR = Point(intercept=0.1, slope=1.2)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return write_study(tmp_path, FULL)


@pytest.fixture
def asker(tmp_path: Path, study: Study) -> Asker:
    """At a site that has approved the study and evaluated its last model."""
    asker = joined(tmp_path, study, patients=600)
    assert isinstance(asker.evaluate(study, LAST).message, Evaluated)
    return asker


def joined(root: Path, study: Study, **settings: Any) -> Asker:
    key = SigningKey.generate()
    site = make_site(root / "a", "a", key.public, **settings)
    approve(site, study)
    asker = Asker(key, site)
    asker.invite(study)
    return asker


def calibrate(
    asker: Asker,
    study: Study,
    step: int = 1,
    point: Point | None = START,
    groups: Mapping[str, Mapping[str, Point]] | None = None,
    round: int = LAST,
    model: Vector | None = None,
) -> Heard:
    question = Calibrate(
        evaluate=Evaluate(),
        step=step,
        points=Points(overall=point, groups=groups or {}),
    )
    return asker.ask(study, question, round, initial_model(study) if model is None else model)


def test_sums_of_the_final_model_are_told_rounded_to_whole_patients(
    asker: Asker, study: Study
) -> None:
    message = calibrate(asker, study, groups=BOTH).message
    assert isinstance(message, Calibrated)
    assert message.overall is not None
    assert set(message.groups["sex"]) == {"female", "male"}
    for sums in (message.overall, *message.groups["sex"].values()):
        assert sums.rounding == pytest.approx(1 / 12)
        assert all(value.is_integer() for value in (*sums.gradient, *sums.information))


def test_a_step_asked_twice_gives_the_same_bytes_also_after_a_restart(
    asker: Asker, study: Study
) -> None:
    first = calibrate(asker, study)
    again = calibrate(asker, study)
    assert again.body == first.body
    asker.site.database.close()
    reopened = Asker(asker.key, open_site(asker.site.directory.root))
    assert calibrate(reopened, study).body == first.body
    events = [event.action for event in reopened.site.log.events()]
    assert events.count("evaluation.calibrated") == 1


def test_a_step_is_answered_at_one_point_only(asker: Asker, study: Study) -> None:
    assert calibrate(asker, study, 2, NEAR).rule == ""
    elsewhere = Point(intercept=0.1, slope=1.3)
    assert calibrate(asker, study, 2, elsewhere).rule == "round.changed"
    assert calibrate(asker, study, 2, None, {"sex": {"male": NEAR}}).rule == "round.changed"
    assert calibrate(asker, study, 3, elsewhere).rule == ""


@pytest.mark.parametrize("step", [-1, 0, MAX_STEPS + 1, 10**9])
def test_no_more_steps_are_answered_than_a_fit_needs(asker: Asker, study: Study, step: int) -> None:
    assert calibrate(asker, study, step, START).rule == "calibration.step"


@pytest.mark.parametrize(
    ("step", "point"),
    [
        (1, NEAR),
        (2, Point(intercept=0.0, slope=1000.0)),
        (2, Point(intercept=0.0, slope=-0.001)),
        (2, Point(intercept=0.0, slope=BOX[1][1] + 0.001)),
        (2, Point(intercept=1e300, slope=1.0)),
        (2, Point(intercept=BOX[0][0] - 0.001, slope=1.0)),
    ],
)
def test_a_point_that_no_fit_comes_to_is_refused(
    asker: Asker, study: Study, step: int, point: Point
) -> None:
    assert calibrate(asker, study, step, point).rule == "calibration.point"
    assert calibrate(asker, study, step, None, {"sex": {"male": point}}).rule == "calibration.point"


def test_another_model_than_the_last_one_evaluated_is_refused(asker: Asker, study: Study) -> None:
    other = initial_model(study) * np.float32(50)
    assert calibrate(asker, study, model=other).rule == "calibration.model"


def test_before_the_last_evaluation_nothing_is_told(tmp_path: Path, study: Study) -> None:
    early = joined(tmp_path, study)
    assert calibrate(early, study).rule == "calibration.model"
    early.evaluate(study, LAST - 1)
    assert calibrate(early, study).rule == "calibration.model"
    assert calibrate(early, study, round=LAST - 1).rule == "calibration.round"
    assert calibrate(early, study, round=LAST + 1).rule == "study.rounds"


@pytest.mark.parametrize("attribute", ["sex", "marker", "sex x age"])
def test_a_group_that_was_not_evaluated_is_refused(
    asker: Asker, study: Study, attribute: str
) -> None:
    groups = {attribute: {"both": START}}
    assert calibrate(asker, study, groups=groups).rule == "calibration.group"


def test_a_study_that_wants_no_curves_is_asked_nothing(tmp_path: Path) -> None:
    study = write_study(tmp_path, FULL, "[evaluation]\ncurves = false\n")
    asker = joined(tmp_path, study)
    asker.evaluate(study, LAST)
    assert calibrate(asker, study).rule == "calibration.study"


def test_a_group_whose_means_were_hidden_is_not_told_of(tmp_path: Path, study: Study) -> None:
    """Few patients: the site showed no means by age, and tells no sums by age."""
    asker = joined(tmp_path, study, patients=80)
    shown = asker.evaluate(study, LAST).message.evaluation
    hidden = [name for name, t in shown.groups["sex"].items() if mean(t) is None]
    assert hidden
    message = calibrate(asker, study, groups=BOTH).message
    assert isinstance(message, Calibrated)
    assert not set(hidden) & set(message.groups.get("sex", {}))


def mean(tally: object) -> float | None:
    assert isinstance(tally, BinaryTally)
    return tally.mean_score


def test_who_is_in_a_group_is_what_the_study_declares(tmp_path: Path) -> None:
    """The third patient's sex is missing, the fourth's age."""
    study = write_study(tmp_path, FULL).model_copy(
        update={
            "fairness": Fairness(
                attributes=("sex", "age"), bands={"age": (50.0,)}, intersections=(("sex", "age"),)
            )
        }
    )
    levels = {"sex": np.array([0, 1, -1, 1], np.int16), "age": np.array([0, 1, 1, -1], np.int16)}
    found = {group: who.tolist() for group, who in groups_of(study, levels).items()}
    assert found["sex", "male"] == [False, True, False, True]
    assert found["age", "unknown"] == [False, False, False, True]
    assert found["sex x age", "male x >=50"] == [False, True, False, False]
    assert found["sex x age", "unknown x >=50"] == [False, False, True, False]
    assert len(found) == 3 + 3 + 9


def test_with_disclosure_control_off_sums_are_exact(tmp_path: Path) -> None:
    study = write_study(tmp_path, PLAIN)
    loose = {"minimum_cell": "0", "allow_unprotected": "true"}
    asker = joined(tmp_path, study, policy=loose)
    asker.evaluate(study, 4)
    message = calibrate(asker, study, round=4).message
    assert isinstance(message, Calibrated)
    assert message.overall is not None
    assert message.overall.rounding == 0
    assert not float(message.overall.information[0]).is_integer()
