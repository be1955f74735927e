"""What a site makes for itself stays there, survives, and is made once for each round."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.asking import Asker
from tests.client.test_upgrade import written_by_the_first_format
from tests.federation import FULL, Federation, approve, federate, make_site, write_study

from cohortium.client import withdrawal
from cohortium.client.personal_models import PersonalModels
from cohortium.client.replies import Replies
from cohortium.client.results import KeptResults
from cohortium.client.site import Site, open_site
from cohortium.common.identity import SigningKey
from cohortium.common.messages import Evaluated, Update
from cohortium.common.study import Study
from cohortium.server.coordinator import run_study

ALL = """
[evaluation]
own_model = true

[mitigation]
recalibrate = true
ditto = 0.5
"""
ALLOWED = {"allow_own_model": "true"}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return write_study(tmp_path, FULL, ALL)


def asking(root: Path, key: SigningKey, study: Study) -> Asker:
    """A site that has approved the study; all of them are the same hospital."""
    asker = Asker(key, make_site(root, "a", key.public, policy=ALLOWED))
    approve(asker.site, study)
    assert asker.invite(study).message.decision == "approved"
    return asker


@pytest.fixture
def asker(tmp_path: Path, study: Study) -> Asker:
    return asking(tmp_path / "a", SigningKey.generate(), study)


def personal(site: Site, study: Study) -> bytes:
    return PersonalModels(site.database).of(study.digest).tobytes()


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Federation]:
    root = tmp_path_factory.mktemp("ran")
    study = write_study(root, FULL, ALL)
    federation = federate(root, policy=ALLOWED)
    for site in federation.sites.values():
        approve(site, study)
    run_study(study, federation.desk(study))
    return study, federation


def test_the_last_evaluation_leaves_its_full_results_at_each_site(
    ran: tuple[Study, Federation],
) -> None:
    study, federation = ran
    for site in federation.sites.values():
        results = KeptResults(site.database).of(study.digest)
        assert results is not None
        assert set(results.models) == {"federated", "own", "recalibrated", "personal"}
        assert results.recalibration is not None
        assert results.own is not None
        assert results.models["own"].overall.n == results.models["federated"].overall.n
        assert PersonalModels(site.database).round_of(study.digest) == 3


def test_no_model_of_a_site_and_no_line_of_it_is_on_the_wire(
    ran: tuple[Study, Federation],
) -> None:
    study, federation = ran
    wire = b"".join(reply for _, _, reply in federation.transport.wire)
    for site in federation.sites.values():
        results = KeptResults(site.database).of(study.digest)
        assert results is not None
        assert results.recalibration is not None
        assert personal(site, study) not in wire
        assert personal(site, study)[:8] not in wire
        assert repr(results.recalibration.slope).encode() not in wire


def test_earlier_evaluations_make_no_results(asker: Asker, study: Study) -> None:
    assert isinstance(asker.train(study, 1).message, Update)
    assert isinstance(asker.evaluate(study, 2).message, Evaluated)
    assert KeptResults(asker.site.database).of(study.digest) is None


def test_a_round_asked_twice_trains_the_personal_model_once(asker: Asker, study: Study) -> None:
    asker.train(study, 1)
    once = personal(asker.site, study)
    asker.train(study, 1)
    assert personal(asker.site, study) == once
    asker.train(study, 2)
    assert personal(asker.site, study) != once


def test_a_daemon_killed_before_its_reply_is_kept_makes_the_same_model_again(
    asker: Asker, study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asker.train(study, 1)
    first = personal(asker.site, study)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Replies, "store", die)
        with pytest.raises(KeyboardInterrupt):
            asker.train(study, 2)
    asker.site.database.close()
    again = Asker(asker.key, open_site(asker.site.directory.root))
    assert personal(again.site, study) == first
    assert isinstance(again.train(study, 2).message, Update)
    undisturbed = asking(tmp_path / "twin", asker.key, study)
    for round in (1, 2):
        undisturbed.train(study, round)
    assert personal(again.site, study) == personal(undisturbed.site, study)


def test_a_site_that_missed_rounds_goes_on_from_what_it_has(asker: Asker, study: Study) -> None:
    asker.train(study, 3)
    assert PersonalModels(asker.site.database).round_of(study.digest) == 3
    asker.evaluate(study, 3)
    results = KeptResults(asker.site.database).of(study.digest)
    assert results is not None
    assert "personal" in results.models


def test_a_site_that_never_trained_shows_no_personal_model(asker: Asker, study: Study) -> None:
    asker.evaluate(study, 3)
    results = KeptResults(asker.site.database).of(study.digest)
    assert results is not None
    assert set(results.models) == {"federated", "own", "recalibrated"}


def test_a_track_without_another_site_trains_no_personal_model(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    text = ALL.replace("own_model = true", "own_model = true\nleave_one_site_out = true")
    study = write_study(tmp_path / "study", FULL, text)
    asker = asking(tmp_path / "a", SigningKey.generate(), study)
    asker.train(study, 3)
    main = personal(asker.site, study)
    asker.train(study, 7)
    assert personal(asker.site, study) == main
    asker.evaluate(study, 9)
    assert KeptResults(asker.site.database).of(study.digest) is None


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("[evaluation]\nown_model = true\n", "own"),
        ("[mitigation]\nrecalibrate = true\n", "recalibrated"),
        ("[mitigation]\nditto = 1.0\n", "personal"),
    ],
)
def test_a_policy_that_nobody_edited_lets_no_model_without_noise_be_counted(
    tmp_path: Path, part: str, name: str
) -> None:
    study = write_study(tmp_path, FULL, part)
    key = SigningKey.generate()
    asker = Asker(key, make_site(tmp_path / "a", "a", key.public))
    asker.site.studies.receive(study, 0)
    approval = asker.site.sign(study, "Dr. Weiss")
    assert approval.leaves == ("update", "evaluated", f"evaluated beside {name}")
    heard = asker.invite(study)
    assert heard.rule == "policy.allow_own_model"
    assert f"({name})" in heard.message.explanation


def test_withdrawn_data_take_what_was_made_of_them_along(asker: Asker, study: Study) -> None:
    asker.train(study, 1)
    asker.evaluate(study, 3)
    withdrawal.withdraw(asker.site, "ward", "Dr. Weiss")
    assert personal(asker.site, study) == b""
    assert KeptResults(asker.site.database).of(study.digest) is None


def test_a_site_of_an_earlier_version_makes_them_from_then_on(asker: Asker, study: Study) -> None:
    asker.train(study, 1)
    written_by_the_first_format(asker.site)
    again = Asker(asker.key, open_site(asker.site.directory.root))
    assert personal(again.site, study) == b""
    assert isinstance(again.train(study, 2).message, Update)
    assert personal(again.site, study) != b""
