"""A withdrawn dataset: nothing uses it again, whatever was approved, and its models are named."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.asking import Asker
from tests.federation import FULL, PLAIN, PRIVATE, InProcessSites, approve, federate, write_study

from cohortium.client import withdrawal
from cohortium.client.budget import Ledger
from cohortium.client.site import Site
from cohortium.common.cli import main
from cohortium.common.messages import Close
from cohortium.common.study import Study
from cohortium.server.coordinator import initial_model, run_study

WHO = "Dr. Roth"
CLOSED = {"allow_unprotected": "true"}


@pytest.fixture
def asked(tmp_path: Path) -> tuple[Asker, Study]:
    """A site amid a study of three rounds, the first of which it has trained."""
    federation = federate(tmp_path, ("a",))
    study = write_study(tmp_path, FULL)
    asker = Asker(federation.key, federation.sites["a"])
    approve(asker.site, study)
    asker.invite(study)
    assert asker.train(study, 1).rule == ""
    return asker, study


def reserved(site: Site) -> dict[str, Any]:
    return dict(Ledger(site.database, site.directory.load_dataset("ward")).reserved())


def events(site: Site, action: str) -> list[Any]:
    return [event for event in site.log.events() if event.action == action]


def cli(capsys: pytest.CaptureFixture[str], code: int, *arguments: str | Path) -> Any:
    with pytest.raises(SystemExit, match=f"^{code}$"):
        main(["site", *map(str, arguments), "--json"])
    return json.loads(capsys.readouterr().out)


def test_a_study_on_a_withdrawn_dataset_gets_nothing_more_not_even_an_old_answer(
    asked: tuple[Asker, Study],
) -> None:
    asker, study = asked
    done = withdrawal.withdraw(asker.site, "ward", WHO)
    assert done.stopped == (study.name,)
    replayed = asker.deliver(asker.sent[-1])
    for heard in (replayed, asker.train(study, 2), asker.evaluate(study, 1)):
        assert heard.rule == "data.withdrawn"
    assert asker.site.studies.by_digest(study.digest).state == "stopped"
    facts = asker.site.facts(study)
    assert asker.site.approvals.of(study, "a", lambda: facts, asker.site.clock()) == []


def test_privacy_that_was_set_aside_is_given_back_and_what_was_spent_stays(
    asked: tuple[Asker, Study],
) -> None:
    asker, study = asked
    assert reserved(asker.site).keys() == {study.digest}
    withdrawal.withdraw(asker.site, "ward", WHO)
    assert reserved(asker.site) == {}
    ledger = Ledger(asker.site.database, asker.site.directory.load_dataset("ward"))
    assert [entry.round for entry in ledger.entries()] == [1]


def test_a_new_study_cannot_be_invited_or_approved_on_it(
    asked: tuple[Asker, Study], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asker, _ = asked
    new = write_study(tmp_path, FULL, name="later")
    assert asker.invite(new).message.decision == "waiting"
    withdrawal.withdraw(asker.site, "ward", WHO)
    assert asker.invite(new).rule == "data.withdrawn"
    root = asker.site.directory.root
    said = cli(capsys, 4, "approve", "later", "--as", "Dr. Weiss", "--dir", root)
    assert 'data.withdrawn: dataset "ward" was withdrawn' in said["error"]


def test_the_others_go_on_without_the_site_and_it_names_the_rounds_that_used_it(
    tmp_path: Path,
) -> None:
    federation = federate(tmp_path, policy=CLOSED)
    study = write_study(tmp_path, PLAIN)
    for site in federation.sites.values():
        approve(site, study)
    leaving = LeavingAfterRoundTwo(federation.transport, federation.sites["a"])
    federation.transport = leaving  # type: ignore[assignment]
    assert run_study(study, federation.desk(study)) is not None
    (used,) = withdrawal.usage(federation.sites["a"], "ward")
    assert (used.study, used.digest) == (study.name, study.digest)
    assert used.trained == (1, 2)
    assert not used.measured
    (stayed,) = withdrawal.usage(federation.sites["b"], "ward")
    assert stayed.trained == (1, 2, 3, 4)


@dataclass
class LeavingAfterRoundTwo:
    """`Sites` of which one withdraws its data as soon as it has sent its second update."""

    sites: InProcessSites
    leaver: Site

    def ask(self, *arguments: Any) -> Iterator[tuple[str, bytes]]:
        for reply in self.sites.ask(*arguments):
            if len(events(self.leaver, "round.update.sent")) == 2:
                withdrawal.withdraw(self.leaver, "ward", WHO)
            yield reply


def test_twice_is_once(asked: tuple[Asker, Study]) -> None:
    asker, _ = asked
    first = withdrawal.withdraw(asker.site, "ward", WHO)
    second = withdrawal.withdraw(asker.site, "ward", "somebody else")
    assert (second.event, second.by, second.stopped) == (first.event, WHO, ())
    assert second.used_by == first.used_by
    (event,) = events(asker.site, "dataset.retired")
    assert (event.id, event.detail) == (first.event, {"dataset": "ward", "person": WHO})


def test_a_power_cut_amid_a_withdrawal_leaves_nothing_running_and_can_be_finished(
    asked: tuple[Asker, Study],
) -> None:
    asker, study = asked
    directory = asker.site.directory
    config = directory.load_dataset_config("ward").model_copy(update={"withdrawn": "cut off"})
    directory.write_dataset("ward", config)
    assert asker.train(study, 2).rule == "data.withdrawn"
    done = withdrawal.withdraw(asker.site, "ward", WHO)
    assert done.stopped == (study.name,)
    assert [event.id for event in events(asker.site, "dataset.retired")] == [done.event]


def test_registered_again_it_needs_new_approvals_and_keeps_its_ledger(
    asked: tuple[Asker, Study], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asker, study = asked
    site, root = asker.site, asker.site.directory.root
    waiting = write_study(tmp_path, PRIVATE, name="half-approved")
    approve(site, waiting)
    withdrawal.withdraw(site, "ward", WHO)
    where = ("--path", root / "ward.csv", "--schema", root / "schema.toml", "--dir", root)
    added = cli(capsys, 0, "data", "add", "ward", *where)
    assert (added["rows"], added["patients"]) == (200, 200)
    assert asker.train(study, 2).rule == "study.stopped"
    assert asker.invite(waiting).message.decision == "waiting"
    assert len(Ledger(site.database, site.directory.load_dataset("ward")).entries()) == 1
    again = withdrawal.withdraw(site, "ward", WHO)
    assert len(events(site, "dataset.retired")) == 2
    assert [used.trained for used in again.used_by] == [(1,)]


def test_a_study_that_failed_before_does_not_come_back_on_its_old_approval(
    asked: tuple[Asker, Study],
) -> None:
    asker, study = asked
    asker.ask(study, Close(outcome="failed"))
    withdrawal.withdraw(asker.site, "ward", WHO)
    config = asker.site.directory.load_dataset_config("ward")
    again = config.model_copy(update={"withdrawn": None})
    asker.site.directory.write_dataset("ward", again)
    assert asker.invite(study).message.decision == "waiting"


def test_sums_that_scaled_the_inputs_are_in_every_model_from_the_first_round_on(
    tmp_path: Path,
) -> None:
    federation = federate(tmp_path, policy={**CLOSED, "allow_exact_counts": "true"})
    scaling = '[preprocessing]\nscaling = "federated-standard"\n'
    study = write_study(tmp_path, PLAIN, scaling)
    for site in federation.sites.values():
        approve(site, study)
    run_study(study, federation.desk(study))
    (used,) = withdrawal.usage(federation.sites["a"], "ward")
    assert (used.measured, used.from_round, used.trained) == (True, 1, (1, 2, 3, 4))


def test_the_command_says_what_was_stopped_and_which_models_used_it(
    asked: tuple[Asker, Study], capsys: pytest.CaptureFixture[str]
) -> None:
    asker, study = asked
    asker.evaluate(study, 1)
    root = asker.site.directory.root
    said = cli(capsys, 0, "data", "withdraw", "ward", "--as", WHO, "--dir", root)
    used = {"study": study.name, "digest": study.digest, "trained": [1], "evaluated": [1]}
    model = hashlib.sha256(initial_model(study).astype("<f4").tobytes()).hexdigest()
    assert said["used_by"] == [{**used, "measured": False, "from_round": 1, "models": [model]}]
    assert (said["dataset"], said["by"], said["stopped"]) == ("ward", WHO, [study.name])
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["site", "data", "withdraw", "ward", "--as", WHO, "--dir", str(root)])
    captured = capsys.readouterr()
    assert "in its models from round 1 on (trained in 1 rounds, 1)" in captured.out + captured.err
    assert f"study resume {study.name} --without a --from-round 1" in captured.out + captured.err
    missing = cli(capsys, 2, "data", "withdraw", "wards", "--as", WHO, "--dir", root)
    assert 'no dataset "wards"' in missing["error"]
