"""The full row of each spend: written with it, chained, named by its event, true to what ran."""

import hashlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from tests.asking import Asker
from tests.client.test_upgrade import written_by_the_first_format
from tests.client.test_watermark import backup, restored
from tests.federation import FULL, PRIVATE, approve, make_site, write_study

from cohortium.client import consent, ledger_rows, lost
from cohortium.client.site import Site, open_site
from cohortium.common.cli import main
from cohortium.common.code import code_digest
from cohortium.common.document import canonical, parse_json
from cohortium.common.identity import SigningKey
from cohortium.common.messages import Update
from cohortium.common.privacy import accounting, cross_check
from cohortium.common.privacy.ledger_row import Accountant, CrossCheck, LedgerRow
from cohortium.common.privacy.plan import planned
from cohortium.common.privacy.recompute import recompute
from cohortium.common.study import Study

NOISY = "[evaluation]\nnoise_epsilon = 0.5\n"


def rows_of(site: Site) -> list[LedgerRow]:
    texts = ledger_rows.texts(site.database)
    return [parse_json(text.encode(), LedgerRow, "row") for text in texts if text]


def events(site: Site, action: str) -> list[Any]:
    return [event for event in site.log.events() if event.action == action]


def begun(root: Path, *parts: str, cap: float = 10.0) -> tuple[Asker, Study]:
    key = SigningKey.generate()
    asker = Asker(key, make_site(root / "a", "a", key.public, epsilon_cap=cap))
    study = write_study(root, *parts)
    approve(asker.site, study)
    assert asker.invite(study).message.decision == "approved"
    return asker, study


@pytest.fixture
def asker(tmp_path: Path) -> Asker:
    """At a site that has answered two rounds and a noisy evaluation."""
    asker, study = begun(tmp_path, FULL.replace("rounds = 3", "rounds = 2"), NOISY)
    for round in (1, 2):
        assert isinstance(asker.train(study, round).message, Update)
    asker.evaluate(study, 2)
    return asker


def test_a_row_is_column_document_and_object_of_its_event_to_the_byte(asker: Asker) -> None:
    site = asker.site
    texts, spent = ledger_rows.texts(site.database), events(site, "privacy.spent")
    assert len(texts) == len(spent) == 3
    for number, (text, event) in enumerate(zip(texts, spent, strict=True), start=1):
        row = parse_json(text.encode(), LedgerRow, "row")
        assert canonical(row).decode() == text
        (thing,) = event.obj
        assert thing.t == "ledger.row"
        assert thing.h == "sha256:" + hashlib.sha256(text.encode()).hexdigest()
        assert thing.bytes == len(text.encode())
        assert site.documents.text(thing.h) == text
        assert row.id == f"a-{number}"
        assert event.detail["row"] == str(number)
        assert (event.detail["epsilon"], event.study) == (row.epsilon, row.study)
        assert event.detail["epsilon_after"] == row.lifetime.after


def test_what_the_consortium_hears_names_the_row_too(asker: Asker) -> None:
    lines = [json.loads(r["line"]) for r in asker.site.database.execute("SELECT line FROM shared")]
    named = {line["obj"][0]["h"] for line in lines if line["action"] == "privacy.spent"}
    texts = ledger_rows.texts(asker.site.database)
    assert named == {"sha256:" + hashlib.sha256(text.encode()).hexdigest() for text in texts}
    (reserved, noise) = [line for line in lines if line["action"] == "privacy.reserved"]
    assert reserved["detail"]["cross_check"] == "dp-accounting PLD 3.000000"
    assert noise["detail"]["kind"] == "evaluation"


def test_rows_are_a_chain_by_hash(asker: Asker) -> None:
    texts, rows = ledger_rows.texts(asker.site.database), rows_of(asker.site)
    assert rows[0].prev == ""
    for text, after in zip(texts, rows[1:], strict=False):
        assert after.prev == hashlib.sha256(text.encode()).hexdigest()


def test_a_row_says_what_really_ran(asker: Asker) -> None:
    first, second, noise = rows_of(asker.site)
    assert [row.purpose for row in (first, second, noise)] == ["training"] * 2 + ["evaluation"]
    assert first.code == code_digest()
    assert set(first.software) == {
        "cohortium", "dp-accounting", "numpy", "opacus", "scipy", "torch"
    }  # fmt: skip
    assert (first.steps, first.steps_planned, second.steps) == (1, 2, 1)
    assert first.accountant.name == "Gaussian DP, closed form"
    assert first.cross_check is not None
    assert first.cross_check.agrees
    assert first.cross_check.accountant.settings["steps"] == "2"
    assert second.lifetime.before == first.lifetime.after == first.epsilon
    assert float(second.epsilon) == pytest.approx(3.0, abs=1e-6)
    assert float(noise.epsilon) == pytest.approx(0.5, abs=1e-6)
    assert float(noise.lifetime.after) > float(second.lifetime.after)
    assert noise.clip_norm == repr(3**0.5)  # of three families, one cell each
    assert "drawn exactly" in noise.floating_point
    assert noise.rng == "os.urandom"
    assert first.clip_norm == "1.0"
    assert (first.unit, first.max_records_per_unit) == ("patient", 1)
    assert recompute([first, second, noise]) == []


def test_a_poisson_row_has_its_sampler_and_the_opinion_of_opacus(tmp_path: Path) -> None:
    asker, study = begun(tmp_path, PRIVATE)
    asker.train(study, 1)
    (row,) = rows_of(asker.site)
    plan = planned(study)
    assert plan is not None
    assert accounting.from_dp_json(row.dp) == plan.event()
    assert row.dp["event"]["type"] == "PoissonSampled"
    assert (row.sampler, row.sample_rate, row.steps, row.steps_planned) == ("poisson", "0.2", 5, 20)
    assert row.clipping.endswith("by Opacus")
    assert row.accountant.name == "dp-accounting PLD"
    assert row.cross_check is not None
    assert row.cross_check.accountant.name == "Opacus PRV"
    assert 0 < float(row.cross_check.epsilon) - 3.0 < 0.02
    assert recompute([row]) == []


def test_a_row_does_not_outlive_the_transaction_it_belongs_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asker, study = begun(tmp_path, FULL)
    monkeypatch.setattr(type(asker.site.latest), "advance", lambda *_: 1 / 0)
    assert asker.train(study, 1).rule == "site.error"
    assert rows_of(asker.site) == []
    assert events(asker.site, "privacy.spent") == []
    documents = asker.site.database.execute("SELECT count(*) FROM documents")
    assert documents[0][0] == 0


def test_rows_from_before_this_form_are_counted_by_the_first_full_one(tmp_path: Path) -> None:
    asker, study = begun(tmp_path, FULL)
    asker.train(study, 1)
    written_by_the_first_format(asker.site)
    again = Asker(asker.key, open_site(asker.site.directory.root))
    again.train(study, 2)
    again.train(study, 3)
    older, *_ = ledger_rows.texts(again.site.database)
    second, third = rows_of(again.site)
    assert older == ""
    assert (second.id, second.prev) == ("a-2", "")
    (earlier,) = second.earlier
    assert (earlier.study, earlier.purpose) == (study.digest, "training")
    assert third.earlier == ()
    assert float(second.lifetime.before) > 1.0
    assert float(third.epsilon) == pytest.approx(3.0, abs=1e-6)
    assert recompute([third, second]) == []
    forgotten = second.model_copy(update={"earlier": ()})
    assert any("a-2: lifetime.before" in problem for problem in recompute([forgotten]))


def test_lost_rows_are_charged_in_full_and_both_branches_can_be_computed_again(
    tmp_path: Path,
) -> None:
    asker, study = begun(tmp_path, FULL)
    asker.train(study, 1)
    old = backup(asker)
    asker.train(study, 2)
    gone = rows_of(asker.site)[1]
    again = restored(asker, old)
    accepted = lost.accept(again.site, "Dr. Weiss")
    assert accepted is not None
    assert accepted.steps == 1
    first, charged = rows_of(again.site)
    assert (charged.id, charged.round, charged.prev) == (gone.id, 0, gone.prev)
    assert charged.clip_norm == "1.0"
    assert charged.steps_planned == 3
    event = events(again.site, "privacy.spent")[-1]
    assert event.obj[0].h == "sha256:" + hashlib.sha256(canonical(charged)).hexdigest()
    assert event.detail["by"] == "Dr. Weiss"
    assert event.detail["epsilon_after"] == charged.lifetime.after == gone.lifetime.after
    assert recompute([first, gone, charged]) == []  # the consortium has seen all three
    twin = gone.model_copy(update={"clip_norm": "2.0"})
    assert any("another row of that place" in p for p in recompute([first, gone, twin]))


def test_a_loss_of_a_study_that_nobody_remembers_is_charged_too(tmp_path: Path) -> None:
    asker, study = begun(tmp_path, FULL)
    asker.train(study, 1)
    asker.site.database.close()
    asker.site.directory.database.unlink()
    site = open_site(asker.site.directory.root)
    assert lost.accept(site, "Dr. Weiss") is not None
    (row,) = rows_of(site)
    assert (row.study, row.round) == (study.digest, 0)
    assert row.clipping == ledger_rows.UNKNOWN_CLIPPING
    assert recompute([row]) == []


# ------------------------------------------------------------------ second opinion, cap, release


def test_a_study_on_which_two_programs_disagree_does_not_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = SigningKey.generate()
    asker = Asker(key, make_site(tmp_path / "a", "a", key.public))
    study = write_study(tmp_path, PRIVATE)
    approve(asker.site, study)
    honest = accounting.epsilon
    monkeypatch.setattr(accounting, "epsilon", lambda *given: 0.9 * honest(*given))
    cross_check._checked.cache_clear()
    heard = asker.invite(study)
    cross_check._checked.cache_clear()
    assert heard.rule == "privacy.cross_check"
    assert "by Opacus PRV 3.0" in heard.message.explanation
    assert asker.site.ledger(study).reserved() == {}
    assert events(asker.site, "round.refused")[-1].reason == "privacy.cross_check"
    assert isinstance(asker.train(study, 1).message, type(heard.message))
    assert rows_of(asker.site) == []


def test_the_second_opinion_is_paid_once_and_not_in_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asker, study = begun(tmp_path, PRIVATE)
    monkeypatch.setattr(consent, "_cross_checked", lambda *_: pytest.fail("asked again"))
    for round in (1, 2):
        assert isinstance(asker.train(study, round).message, Update)
    assert len({row.cross_check and row.cross_check.epsilon for row in rows_of(asker.site)}) == 1


def test_no_opinion_is_no_refusal_and_the_row_says_that_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cross_check, "find_spec", lambda _: None)
    cross_check._checked.cache_clear()
    asker, study = begun(tmp_path, PRIVATE)
    cross_check._checked.cache_clear()
    asker.train(study, 1)
    (row,) = rows_of(asker.site)
    assert row.cross_check is None
    assert "cross_check" not in events(asker.site, "privacy.reserved")[0].detail


def test_a_cap_that_is_hit_says_which_and_what_was_asked(tmp_path: Path) -> None:
    key = SigningKey.generate()
    asker = Asker(key, make_site(tmp_path / "a", "a", key.public, epsilon_cap=2.5))
    study = write_study(tmp_path, FULL)
    assert asker.invite(study).rule == "privacy.cap"
    (event,) = events(asker.site, "privacy.cap.hit")
    assert event.outcome == "denied"
    assert {key: event.detail[key] for key in ("dataset", "cap", "delta", "steps", "kind")} == {
        "dataset": "ward",
        "cap": "2.5",
        "delta": "1e-05",
        "steps": "3",
        "kind": "invite",
    }
    assert event.detail["epsilon_before"] == "0.000000"
    assert float(event.detail["epsilon_after"]) == pytest.approx(3.0, abs=1e-6)


def test_what_is_given_back_is_said_for_each_purpose(asker: Asker, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    study = write_study(tmp_path / "more", FULL, NOISY, name="second")
    approve(asker.site, study)
    asker.invite(study)
    asker.train(study, 1)
    asker.site.release(study.digest)
    details = [event.detail for event in events(asker.site, "privacy.released")]
    assert [(one["kind"], one["steps"]) for one in details] == [
        ("training", "2"),
        ("evaluation", "1"),
    ]


# ------------------------------------------------------------------ commands


def run(site: Site, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    site.database.close()
    with pytest.raises(SystemExit, match="0"):
        main(["site", "budget", *arguments, "--dir", str(site.directory.root)])
    return capsys.readouterr().out


def test_the_rows_can_be_exported_as_json_lines_to_the_byte(
    asker: Asker, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ledger_rows.texts(asker.site.database)
    assert run(asker.site, capsys, "--rows").splitlines() == texts
    document = json.loads(run(asker.site, capsys, "--rows", "--json"))
    assert document["older"] == 0
    assert document["rows"] == [json.loads(text) for text in texts]


def test_epsilon_is_also_said_in_words_and_as_mu(
    asker: Asker, capsys: pytest.CaptureFixture[str]
) -> None:
    (balance,) = json.loads(run(asker.site, capsys, "--json"))["datasets"]
    assert balance["mu"] == pytest.approx(0.7328, abs=1e-3)
    assert balance["words"] in run(asker.site, capsys)
    percent = balance["true_positive_rate"] * 100
    assert f"at most {percent:.1f}% of cases" in balance["words"] or percent % 0.1 > 0
    assert "accepts 1% false alarms" in balance["words"]


def test_a_row_that_is_changed_is_refused_by_the_table(asker: Asker) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        asker.site.database._connection.execute("UPDATE ledger SET row = ''")


def test_a_disagreement_is_an_opinion_that_does_not_agree() -> None:
    opinion = CrossCheck(accountant=Accountant(name="x", version="1"), epsilon="2.1", agrees=False)
    assert not cross_check.agree(2.0, float(opinion.epsilon))
    assert cross_check.agree(2.0, 2.04)
    assert not cross_check.agree(0.5, 0.521)
