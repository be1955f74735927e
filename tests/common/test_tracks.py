"""Leave-one-site-out: which model a round is of, and that its whole price is reckoned with."""

from pathlib import Path

import pytest
from tests.federation import FULL, write_study

from cohortium.common.errors import DocumentError
from cohortium.common.privacy.accounting import epsilon
from cohortium.common.privacy.plan import planned, planned_in_all, price_of_tracks
from cohortium.common.tracks import track

LEFT_OUT = """
[evaluation]
leave_one_site_out = true
"""


@pytest.mark.parametrize(
    ("round", "number", "left_out", "inner", "final"),
    [
        (1, 0, "", 1, False),
        (3, 0, "", 3, True),
        (4, 1, "a", 1, False),
        (6, 1, "a", 3, False),
        (7, 2, "b", 1, False),
        (9, 2, "b", 3, False),
    ],
)
def test_rounds_go_on_from_track_to_track(
    round: int, number: int, left_out: str, inner: int, final: bool
) -> None:
    at = track(round, 3, ("a", "b"))
    assert (at.number, at.left_out, at.round, at.final) == (number, left_out, inner, final)
    assert at.first == (inner == 1)
    assert at.last == (inner == 3)


@pytest.mark.parametrize("round", [0, -3, 10])
def test_a_round_beyond_the_tracks_is_none(round: int) -> None:
    with pytest.raises(ValueError, match="no round"):
        track(round, 3, ("a", "b"))


def test_without_leaving_out_a_study_is_what_it_was(tmp_path: Path) -> None:
    study = write_study(tmp_path, FULL)
    assert (study.rounds_in_all, study.rounds_at_a_site, study.left_out) == (3, 3, ())
    assert price_of_tracks(study) is None
    assert planned_in_all(study) == planned(study, 3)


def test_epsilon_covers_all_models_that_a_site_trains(tmp_path: Path) -> None:
    study = write_study(tmp_path, FULL, LEFT_OUT)
    assert (study.rounds_in_all, study.rounds_at_a_site) == (12, 9)
    plan = planned_in_all(study)
    assert plan is not None
    assert plan.steps == 9
    assert epsilon([plan], 1e-5) == pytest.approx(3.0, rel=1e-6)
    price = price_of_tracks(study)
    assert price is not None
    without, needed = price
    assert needed / without == pytest.approx(3**0.5)  # full batches: noise grows with sqrt(steps)
    assert epsilon([plan.model_copy(update={"noise_multiplier": without})], 1e-5) > 3.0


def test_a_site_that_only_evaluates_is_not_left_out(tmp_path: Path) -> None:
    study = write_study(tmp_path, FULL, LEFT_OUT)
    sites = study.sites.model_copy(update={"evaluate_only": ("b",)})
    fewer = study.model_copy(update={"sites": sites})
    assert fewer.left_out == ("a", "c")
    assert fewer.rounds_at_a_site == 6


@pytest.mark.parametrize(
    ("part", "why"),
    [
        ("[preprocessing]\nsite_intercept = true\n", "intercept of the site left out"),
        ('[preprocessing]\nscaling = "federated-standard"\n', "prepare inputs by statistics"),
    ],
)
def test_what_a_left_out_site_would_still_leak_into_is_refused(
    tmp_path: Path, part: str, why: str
) -> None:
    plain = FULL.replace('mechanism = "gaussian"\nepsilon = 3.0\ndelta = 1e-5\nclip_norm = 1.0',
                         'mechanism = "none"')  # fmt: skip
    with pytest.raises(DocumentError, match=f"evaluation.leave_one_site_out .*{why}"):
        write_study(tmp_path, plain, LEFT_OUT, part)
