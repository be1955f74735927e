"""A site withdraws: the others train again without it, once they have approved that."""

from pathlib import Path

import pytest
from tests.federation import FULL, Federation, approve
from tests.server.test_coordinator import PLAIN, approved, run

from cohortium.common.errors import DocumentError, UsageError
from cohortium.common.privacy.plan import planned
from cohortium.common.study import Study
from cohortium.server.checkpoints import Checkpoints
from cohortium.server.desk import StudyFailed
from cohortium.server.successor import used, without


def made(study: Study, federation: Federation, site: str, from_round: int) -> Study:
    return without(federation.store.study(study.name), site, from_round, federation.store)


def test_the_remaining_rounds_start_from_the_model_before_them(tmp_path: Path) -> None:
    study, federation = approved(tmp_path, PLAIN)
    run(study, federation)
    after = made(study, federation, "c", 3)
    assert (after.sites.names, after.training.rounds) == (("a", "b"), 1)
    assert after.continues is not None
    assert (after.continues.study, after.continues.round) == (study.digest, 2)
    for name in "ab":
        approve(federation.sites[name], after)
    starts: list[bytes] = []
    transport = federation.transport
    ask = transport.ask

    def look(heads: object, body: bytes, deadline_s: float) -> object:
        starts.append(bytes(body))
        return ask(heads, body, deadline_s)  # type: ignore[arg-type]

    transport.ask = look  # type: ignore[assignment,method-assign]
    run(after, federation)
    model = Checkpoints(federation.store.database, study.digest).load(2).model
    assert any(body.endswith(model.tobytes()) for body in starts)
    assert [r.replied for r in federation.store.rounds(after.digest)] == [("a", "b")]


def test_nobody_trains_again_who_has_not_approved_it(tmp_path: Path) -> None:
    study, federation = approved(tmp_path, PLAIN)
    run(study, federation)
    after = made(study, federation, "c", 2)
    hurried = after.sites.model_copy(update={"approval_deadline": 0.2})
    after = after.model_copy(update={"sites": hurried})
    with pytest.raises(StudyFailed, match="no decision in time: a, b"):
        run(after, federation)


def test_from_the_first_round_it_is_the_study_without_the_site(tmp_path: Path) -> None:
    study, federation = approved(tmp_path, PLAIN)
    run(study, federation)
    after = made(study, federation, "b", 1)
    assert after.continues is None
    assert after.training == study.training
    assert after.sites.names == ("a", "c")


def test_a_private_one_keeps_its_noise_and_costs_what_its_fewer_rounds_cost(tmp_path: Path) -> None:
    study, federation = approved(tmp_path, FULL)
    run(study, federation)
    after = made(study, federation, "a", 3)
    before_noise, after_noise = planned(study), planned(after)
    assert before_noise is not None
    assert after_noise is not None
    assert after_noise.noise_multiplier == pytest.approx(before_noise.noise_multiplier, rel=1e-3)
    assert after.privacy.epsilon is not None
    assert study.privacy.epsilon is not None
    assert 0 < after.privacy.epsilon < study.privacy.epsilon


def test_what_a_site_was_used_in_is_known(tmp_path: Path) -> None:
    study, federation = approved(tmp_path, PLAIN)
    run(study, federation)
    row = federation.store.study(study.name)
    assert used(row, "c", federation.store) == (1, 2, 3)
    assert used(row, "nobody", federation.store) == ()


def test_a_model_that_was_changed_since_the_approval_is_not_started_from(tmp_path: Path) -> None:
    study, federation = approved(tmp_path, PLAIN)
    run(study, federation)
    after = made(study, federation, "c", 3)
    checkpoints = Checkpoints(federation.store.database, study.digest)
    checkpoints.keep(2, checkpoints.load(1))
    for name in "ab":
        approve(federation.sites[name], after)
    with pytest.raises(StudyFailed, match="not the one that this study was approved with"):
        run(after, federation)


@pytest.mark.parametrize(
    ("site", "from_round", "says"),
    [
        ("nobody", 1, '"nobody" is no site of ward-study: a, b, c'),
        ("c", 9, "--from-round 9: no model from before that round is kept; possible: 1, 2, 3"),
        ("c", 4, "--from-round 4: no model"),
    ],
)
def test_an_impossible_withdrawal_says_what_is_possible(
    tmp_path: Path, site: str, from_round: int, says: str
) -> None:
    study, federation = approved(tmp_path, PLAIN)
    run(study, federation)
    with pytest.raises(UsageError) as caught:
        made(study, federation, site, from_round)
    assert str(caught.value).startswith(says)


def test_inputs_that_depend_on_who_takes_part_need_a_fresh_start(tmp_path: Path) -> None:
    study, federation = approved(tmp_path, PLAIN, "[preprocessing]\nsite_intercept = true\n")
    run(study, federation)
    with pytest.raises((UsageError, DocumentError), match="--from-round 1"):
        made(study, federation, "c", 2)
    assert made(study, federation, "c", 1).sites.names == ("a", "b")
