"""A model leaves by a signed release or not at all: through the real commands, on a real store."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from tests.federation import COORDINATOR, PLAIN, approve, coordinate, make_site, write_study

from cohortium.common.audit.events import Actor, os_user
from cohortium.common.audit.log import LOG_MIGRATION
from cohortium.common.cli import main
from cohortium.common.database import open_database
from cohortium.common.errors import SignatureError
from cohortium.common.identity import SigningKey, VerifyKey
from cohortium.common.metrics.tallies import BinaryTally, SiteEvaluation
from cohortium.server import database
from cohortium.server.config import CoordinatorDir
from cohortium.server.coordinator import run_study
from cohortium.server.model_file import final_vector
from cohortium.server.opened import Opened, open_coordinator
from cohortium.server.setup import initialise

NAME = "ward-study"
OFFICER = "Dr. E. Haddad"
UNGROUPED = """
[evaluation]
every = 4
"""


def tally(tp: int, fp: int, tn: int, fn: int) -> BinaryTally:
    return BinaryTally(
        n=tp + fp + tn + fn,
        positives=tp + fn,
        correct=tp + tn,
        tp=tp,
        fp=fp,
        tn=tn,
        fn=fn,
        log_loss=0.4,
        auroc=None,
    )


LIKE = tally(80, 20, 80, 20)
HARMED = tally(50, 20, 80, 50)


def evaluation(female: BinaryTally, male: BinaryTally) -> SiteEvaluation:
    """By sex, and by age as if it made no difference."""
    counts = {key: getattr(female, key) + getattr(male, key) for key in ("tp", "fp", "tn", "fn")}
    half = {key: value // 2 for key, value in counts.items()}
    rest = {key: value - half[key] for key, value in counts.items()}
    return SiteEvaluation(
        overall=tally(**counts),
        groups={
            "sex": {"female": female, "male": male},
            "age": {"<50": tally(**half), ">=50": tally(**rest)},
        },
    )


@dataclass
class Home:
    """A coordinator's directory with a completed study, and its commands."""

    root: Path
    capsys: pytest.CaptureFixture[str]

    def run(self, *words: str) -> tuple[int, dict[str, Any]]:
        with pytest.raises(SystemExit) as ended:
            main(["study", *words, "--dir", str(self.root), "--json"])
        assert isinstance(ended.value.code, int)
        said = self.capsys.readouterr()
        assert "Traceback" not in said.err
        return ended.value.code, json.loads(said.out)

    def ok(self, *words: str) -> dict[str, Any]:
        code, document = self.run(*words)
        assert code == 0, document
        return document

    def refused(self, *words: str, code: int = 4) -> str:
        found, document = self.run(*words)
        assert (found, document["exit_code"]) == (code, code), document
        return str(document["error"])

    def flags(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ok("flags", NAME)["flags"]
        return found

    def dispose(
        self, *flags: str, decision: str = "accept", reason: str = "seen and accepted"
    ) -> dict[str, Any]:
        words = ("--as", OFFICER, "--reason", reason, "--decision", decision)
        return self.ok("disposition", NAME, *flags, *words)

    def release(self, *words: str) -> dict[str, Any]:
        return self.ok("release", NAME, "--as", OFFICER, *words)

    def export(self, out: Path) -> dict[str, Any]:
        return self.ok("export", NAME, "--out", str(out))

    def events(self, action: str) -> list[dict[str, Any]]:
        opened = open_coordinator(self.root)
        opened.log.verify()
        found = [json.loads(event.line) for event in opened.log.events() if event.action == action]
        opened.database.close()
        return found

    def change(self, work: Callable[[Opened], None]) -> None:
        """Do to the store what no command does."""
        opened = open_coordinator(self.root)
        work(opened)
        opened.database.close()

    def measured(self, **sites: SiteEvaluation) -> None:
        """Let sites have said something else of the final model."""

        def put(opened: Opened) -> None:
            row = opened.store.study(NAME)
            last = opened.store.rounds(row.digest)[-1]
            changed = {**last.evaluations, **sites}
            opened.store.record(row.digest, last.model_copy(update={"evaluations": changed}))

        self.change(put)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of three sites that ran, with evaluations that show no gap."""
    root = tmp_path_factory.mktemp("finished")
    home = root / "home"
    initialise(home, COORDINATOR, "127.0.0.1", 9092, 9093, os_user())
    key = SigningKey.load(CoordinatorDir(home).signing_key)
    study = write_study(root, PLAIN, UNGROUPED)
    sites = {
        name: make_site(root / name, name, key.public, policy={"allow_unprotected": "true"})
        for name in study.sites.names
    }
    federation = coordinate(home, key, sites)
    for site in sites.values():
        approve(site, study)
    run_study(study, federation.desk(study))
    last = federation.store.rounds(study.digest)[-1]
    same = dict.fromkeys(study.sites.names, evaluation(LIKE, LIKE))
    federation.store.record(study.digest, last.model_copy(update={"evaluations": same}))
    federation.close()
    return home


@pytest.fixture
def home(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Home:
    shutil.copytree(finished, tmp_path / "home")
    return Home(tmp_path / "home", capsys)


@pytest.fixture
def gap(home: Home) -> Home:
    """A model that finds 50 of 100 ill women and 80 of 100 ill men at site b."""
    home.measured(b=evaluation(HARMED, LIKE))
    return home


# ------------------------------------------------------------------ refused while open


def test_a_model_without_a_flag_is_released_and_leaves(home: Home, tmp_path: Path) -> None:
    document = home.ok("flags", NAME)
    assert document["flags"] == []
    assert document["gates"] == [
        {"gate": gate, "open": False} for gate in ("fairness", "measured", "epsilon", "quarantine")
    ]
    assert home.release()["state"] == "released"
    exported = home.export(tmp_path / "out")
    assert Path(exported["model"]).exists()


def test_an_open_gate_refuses_and_names_flags_and_next_step(gap: Home) -> None:
    flags = gap.flags()
    assert {flag["gate"] for flag in flags} == {"fairness"}
    error = gap.refused("release", NAME, "--as", OFFICER)
    assert error.startswith(f"release.gates: {len(flags)} of the flags of {NAME} are open: ")
    for flag in flags:
        assert f"{flag['flag']} (fairness) {flag['text']}" in error
    assert f"cohortium study disposition {NAME} FLAG --as PERSON --reason TEXT" in error
    assert "--override" in error
    assert gap.events("model.released") == []
    texts = " ".join(flag["text"] for flag in flags)
    assert "b: sex: male against female, equal opportunity: gap 0.300" in texts


def test_no_command_but_export_gives_the_model_and_export_wants_a_release(
    gap: Home, tmp_path: Path
) -> None:
    error = gap.refused("export", NAME, "--out", str(tmp_path / "out"))
    assert error.startswith(f"release.missing: {NAME} is not released")
    gap.ok("report", NAME, "--out", str(tmp_path / "report"))
    written = list(tmp_path.rglob("*.safetensors"))
    assert written == []
    assert not (tmp_path / "out").exists()
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert len(report["model"]["sha256"]) == 64
    assert gap.events("model.downloaded") == []


def test_each_flag_is_raised_once_however_often_somebody_looks(gap: Home) -> None:
    first, second = gap.flags(), gap.flags()
    assert first == second
    raised = gap.events("flag.raised")
    assert [event["id"] for event in raised] == [flag["event"] for flag in first]
    assert {event["detail"]["flag"] for event in raised} == {flag["flag"] for flag in first}
    assert all(event["actor"]["type"] == "coordinator" for event in raised)


def test_a_site_that_measured_nothing_keeps_the_model(home: Home) -> None:
    def forget(opened: Opened) -> None:
        row = opened.store.study(NAME)
        last = opened.store.rounds(row.digest)[-1]
        kept = {name: one for name, one in last.evaluations.items() if name != "c"}
        opened.store.record(row.digest, last.model_copy(update={"evaluations": kept}))

    home.change(forget)
    assert "(measured) c: trained the model and did not measure it" in home.refused(
        "release", NAME, "--as", OFFICER
    )


def test_a_reply_that_its_key_did_not_sign_keeps_the_model(home: Home) -> None:
    def suspect(opened: Opened) -> None:
        opened.log.append(
            "auth.fail",
            actor=Actor(type="coordinator", id=COORDINATOR, auth="local"),
            outcome="denied",
            study=opened.store.study(NAME).digest,
            reason="a reply is not signed by the key of its sender",
            detail={"site": "a"},
        )

    home.change(suspect)
    error = home.refused("release", NAME, "--as", OFFICER)
    assert "(quarantine) a: replies in its name were not signed by its key: 1 in all" in error


def test_a_study_that_failed_has_nothing_to_release(home: Home) -> None:
    home.change(lambda o: o.store.end(o.store.study(NAME).digest, "failed", "too few", "", 1))
    calls: tuple[tuple[str, ...], ...] = (("flags", NAME), ("release", NAME, "--as", OFFICER))
    for words in calls:
        assert "is failed (too few): it has no final model" in home.refused(*words)


# ------------------------------------------------------------------ dispositions


def test_dispositions_of_all_flags_close_the_gate(gap: Home) -> None:
    flags = [flag["flag"] for flag in gap.flags()]
    some, rest = flags[:1], flags[1:]
    gap.dispose(*some, reason="32 patients; measured again next year")
    assert rest == [] or f"{len(rest)} of the flags" in gap.refused("release", NAME, "--as", "X")
    gap.dispose(*rest)
    shown = {flag["flag"]: flag for flag in gap.flags()}
    assert not any(flag["open"] for flag in shown.values())
    answered = shown[some[0]]
    assert (answered["decision"], answered["by"]) == ("accept", OFFICER)
    assert answered["reason"] == "32 patients; measured again next year"
    assert gap.release()["closed"] == len(flags)
    event = gap.events("flag.dispositioned")[0]
    assert event["detail"]["person"] == OFFICER
    assert event["detail"]["disposition"] == "accept"
    assert event["actor"]["id"] == os_user().id


def test_the_same_disposition_twice_is_one(gap: Home) -> None:
    flag = gap.flags()[0]["flag"]
    first, second = gap.dispose(flag), gap.dispose(flag)
    assert first["events"] == second["events"]
    assert len(gap.events("flag.dispositioned")) == 1
    other = gap.dispose(flag, decision="mitigated", reason="another threshold is used for women")
    assert other["events"] != first["events"]
    assert gap.flags()[0]["decision"] == "mitigated"


def test_a_disposition_can_be_taken_back(gap: Home) -> None:
    flags = [flag["flag"] for flag in gap.flags()]
    gap.dispose(*flags)
    gap.release()
    gap.dispose(flags[0], decision="reopen", reason="a patient complained")
    assert gap.flags()[0]["open"]
    document = gap.ok("flags", NAME)
    assert not document["released"]
    assert flags[0] in document["problem"]


@pytest.mark.parametrize(
    ("flag", "reason", "said"),
    [
        ("00000000", "seen and accepted", 'has no flag "00000000"'),
        (None, "x", "--reason: say why in 3 to 500 characters"),
        (None, "x" * 501, "--reason: say why in 3 to 500 characters"),
    ],
)
def test_a_disposition_of_nothing_or_for_no_reason_is_a_wrong_call(
    gap: Home, flag: str | None, reason: str, said: str
) -> None:
    flag = flag or gap.flags()[0]["flag"]
    words = ("disposition", NAME, flag, "--as", OFFICER, "--reason", reason)
    assert said in gap.refused(*words, code=2)
    assert gap.events("flag.dispositioned") == []


def test_a_nameless_signature_is_a_wrong_call(gap: Home) -> None:
    assert "--as: name" in gap.refused("release", NAME, "--as", "  ", code=2)


# ------------------------------------------------------------------ override


def test_an_override_is_signed_logged_and_printed_on_the_card(gap: Home, tmp_path: Path) -> None:
    reason = "Needed for the validation study in spring; not for care"
    released = gap.release("--override", "--reason", reason)
    flags = gap.flags()
    assert released["overridden"] == len(flags)
    (event,) = gap.events("model.released")
    assert event["reason"] == reason
    assert event["detail"]["overridden"] == " ".join(flag["flag"] for flag in flags)
    assert event["detail"]["person"] == OFFICER
    card = Path(gap.export(tmp_path / "out")["card"]).read_text()
    assert "## RELEASED OVER OPEN GATES" in card
    assert f"**{OFFICER} released this with {len(flags)} open flags.**" in card
    assert "Needed for the validation study in spring; not for care" in card
    assert card.count("**OPEN**") == len(flags)


def test_an_override_needs_a_reason_and_something_to_override(home: Home) -> None:
    alone: tuple[tuple[str, ...], ...] = (("--override",), ("--reason", "because I say so"))
    for words in alone:
        error = home.refused("release", NAME, "--as", OFFICER, *words, code=2)
        assert "--override and --reason go together" in error
    both = ("--override", "--reason", "because I say so")
    error = home.refused("release", NAME, "--as", OFFICER, *both, code=2)
    assert "is open: release without" in error


def test_an_override_whose_flags_were_answered_for_becomes_a_release_without(gap: Home) -> None:
    gap.release("--override", "--reason", "the committee meets on Monday")
    assert gap.release("--override", "--reason", "another")["overridden"] > 0
    gap.dispose(*(flag["flag"] for flag in gap.flags()))
    assert gap.release()["overridden"] == 0
    assert len(gap.events("model.released")) == 2


# ------------------------------------------------------------------ what holds, and how long


def test_a_release_twice_is_one(home: Home) -> None:
    first = home.release()
    again = home.ok("release", NAME, "--as", "somebody else")
    assert first == again
    assert len(home.events("model.released")) == 1
    (listed,) = home.ok("list")["studies"]
    assert listed["state"] == "released"


def test_watch_and_report_say_that_it_is_released(home: Home, tmp_path: Path) -> None:
    assert home.ok("list")["studies"][0]["state"] == "completed"
    home.release()
    with pytest.raises(SystemExit, match="0"):
        main(["study", "watch", NAME, "--dir", str(home.root), "--json"])
    assert json.loads(home.capsys.readouterr().out.splitlines()[-1])["state"] == "released"
    home.ok("report", NAME, "--out", str(tmp_path / "report"))
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["state"] == "released"


def test_a_study_that_was_resumed_is_no_longer_released(home: Home, tmp_path: Path) -> None:
    home.release()

    def again(opened: Opened) -> None:
        row = opened.store.study(NAME)
        opened.store.resume(row.digest)
        last = opened.store.rounds(row.digest)[-1]
        opened.store.record(row.digest, last.model_copy(update={"seconds": 9.0}))
        opened.store.end(row.digest, "completed", "", "", 2)

    home.change(again)
    assert home.ok("list")["studies"][0]["state"] == "completed"
    error = home.refused("export", NAME, "--out", str(tmp_path / "out"))
    assert error.startswith("release.changed: the evidence of ward-study is no longer")
    assert "cohortium study release ward-study --as PERSON" in error
    assert home.ok("flags", NAME)["problem"] in error
    home.release()
    home.export(tmp_path / "out")
    assert len(home.events("model.released")) == 2


def test_a_disposition_does_not_outlive_the_evidence_that_was_looked_at(gap: Home) -> None:
    gap.dispose(*(flag["flag"] for flag in gap.flags()))
    worse = evaluation(tally(49, 20, 80, 51), LIKE)
    gap.measured(b=worse)
    assert all(flag["open"] for flag in gap.flags())
    gap.measured(b=evaluation(HARMED, LIKE))
    assert not any(flag["open"] for flag in gap.flags())
    gap.measured(c=evaluation(tally(81, 20, 80, 19), LIKE))
    stale = [flag for flag in gap.flags() if flag["decision"]]
    assert stale
    assert all(flag["open"] for flag in stale)
    assert all(f"changed since {OFFICER} signed" in flag["problem"] for flag in stale)


def test_a_released_model_whose_site_withdrew_says_so_and_leaves_no_more(
    home: Home, tmp_path: Path
) -> None:
    home.release()
    home.ok("resume", NAME, "--without", "c")
    document = home.ok("flags", NAME)
    (flag,) = document["flags"]
    assert (flag["gate"], flag["site"], flag["open"]) == ("withdrawal", "c", True)
    assert not document["released"]
    assert "flags were opened" in home.refused("export", NAME, "--out", str(tmp_path / "out"))
    assert "(withdrawal) c: withdrew its data" in home.refused("release", NAME, "--as", OFFICER)
    home.release("--override", "--reason", "only to compare it with the one without c")
    card = Path(home.export(tmp_path / "out")["card"]).read_text()
    assert "## WITHDRAWN DATA" in card
    assert "c: withdrew its data, which this model has learnt from" in card


def test_a_study_that_completed_before_there_was_a_release_gate_can_be_released(
    home: Home, tmp_path: Path
) -> None:
    formats = [database.SCHEMA, LOG_MIGRATION, database.CHECKPOINTS_AND_ENDINGS]
    objects = "SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL"
    with open_database(tmp_path / "older.db", formats) as older:
        then = {row["name"]: row["sql"] for row in older.execute(objects)}

    def before(opened: Opened) -> None:
        now = {row["name"]: row for row in opened.database.execute(objects)}
        later = [row for name, row in now.items() if row["sql"] != then.get(name)]
        for row in sorted(later, key=lambda row: row["type"], reverse=True):  # triggers first
            opened.database.execute(f"DROP {row['type']} {row['name']}")
        for row in later:
            if row["name"] in then:
                opened.database.execute(then[row["name"]])
        opened.database.execute(f"PRAGMA user_version = {len(formats)}")

    home.change(before)
    assert home.ok("list")["studies"][0]["state"] == "completed"
    home.release()
    home.export(tmp_path / "out")


# ------------------------------------------------------------------ tampering


def tamper(table: str, column: str, change: str) -> Callable[[Opened], None]:
    """What somebody with the file does: drop the guard, then change rows."""

    def work(opened: Opened) -> None:
        opened.database.execute("DROP TRIGGER signed_is_never_changed")
        where = f"WHERE kind = '{table}'"
        opened.database.execute(f"UPDATE signed SET {column} = {change} {where}")

    return work


RENAMED = "CAST(replace(CAST(document AS TEXT), 'Dr. E. Haddad', 'Dr. A. Nother') AS BLOB)"


@pytest.mark.parametrize(
    ("column", "change"),
    [("document", RENAMED), ("signature", "zeroblob(64)"), ("document", "x'7b7d'")],
)
def test_a_disposition_changed_in_the_database_counts_for_nothing(
    gap: Home, column: str, change: str
) -> None:
    flags = [flag["flag"] for flag in gap.flags()]
    gap.dispose(*flags)
    gap.change(tamper("disposition", column, change))
    for flag in gap.flags():
        assert flag["open"]
        assert "not as it was signed" in flag["problem"]
    assert "not as it was signed" in gap.refused("release", NAME, "--as", OFFICER)
    gap.dispose(*flags)
    gap.release()


@pytest.mark.parametrize(
    ("column", "change"), [("document", RENAMED), ("signature", "zeroblob(64)")]
)
def test_a_release_changed_in_the_database_lets_nothing_out(
    home: Home, tmp_path: Path, column: str, change: str
) -> None:
    home.release()
    home.change(tamper("release", column, change))
    assert home.ok("list")["studies"][0]["state"] == "completed"
    error = home.refused("export", NAME, "--out", str(tmp_path / "out"))
    assert "the stored release is not as it was signed by this coordinator's key" in error
    assert not (tmp_path / "out").exists()
    home.release()
    home.export(tmp_path / "out")


def test_a_disposition_moved_to_another_flag_counts_for_nothing(gap: Home) -> None:
    one, other, *_ = gap.flags()
    gap.dispose(one["flag"])

    def move(opened: Opened) -> None:
        opened.database.execute("DROP TRIGGER signed_is_never_changed")
        rows = opened.database.execute("SELECT digest FROM flags ORDER BY digest")
        digest = next(r["digest"] for r in rows if r["digest"].startswith(other["flag"]))
        opened.database.execute("UPDATE signed SET flag = ?", (digest,))

    gap.change(move)
    shown = {flag["flag"]: flag for flag in gap.flags()}
    assert shown[other["flag"]]["open"]
    assert "is of another flag" in shown[other["flag"]]["problem"]


def test_what_was_signed_is_neither_changed_nor_deleted_by_mistake(home: Home) -> None:
    home.release()

    def wrong(opened: Opened) -> None:
        for sql in ("UPDATE signed SET event = ''", "DELETE FROM signed"):
            with pytest.raises(Exception, match="is never"):
                opened.database.execute(sql)

    home.change(wrong)


# ------------------------------------------------------------------ what leaves


def verify(signed: Mapping[str, Any], key: str) -> None:
    """As `release.json` says, with nothing of ours but the key's own check."""
    document = json.dumps(
        signed["document"], sort_keys=True, separators=(",", ":"), ensure_ascii=False
    )
    raw = signed["context"].encode() + document.encode()
    VerifyKey.from_text(key).verify(bytes.fromhex(signed["signature"]), raw)


def test_the_exported_release_verifies_as_it_says_and_names_the_exported_file(
    gap: Home, tmp_path: Path
) -> None:
    gap.dispose(*(flag["flag"] for flag in gap.flags()), reason="größer als erwartet, bekannt")
    gap.release()
    exported = gap.export(tmp_path / "out")
    document = json.loads(Path(exported["release"]).read_text())
    content = Path(exported["model"]).read_bytes()
    signed = document["release"]
    verify(signed, document["key"])
    assert signed["document"]["subject"]["model"] == hashlib.sha256(content).hexdigest()
    assert signed["document"]["signer"]["name"] == OFFICER
    assert len(document["dispositions"]) == len(gap.flags())
    for one in document["dispositions"]:
        verify(one, document["key"])
    one["document"]["signer"]["name"] = "Dr. A. Nother"
    with pytest.raises(SignatureError):
        verify(one, document["key"])
    opened = open_coordinator(gap.root)
    parameters = load_file(exported["model"])
    flat = np.concatenate([parameters[name].ravel() for name in sorted(parameters, reverse=True)])
    expected = final_vector(opened.store.study(NAME), opened.store)
    assert sorted(flat.tolist()) == sorted(expected.tolist())


def test_the_same_release_is_exported_to_the_same_bytes_and_over_no_other_model(
    home: Home, tmp_path: Path
) -> None:
    home.release()
    home.export(tmp_path / "one")
    home.export(tmp_path / "one")
    home.export(tmp_path / "two")
    for name in ("model.safetensors", "model-card.md", "release.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert [e["detail"]["recipient"] for e in home.events("model.downloaded")] == [os_user().id] * 3
    (tmp_path / "two" / "model.safetensors").write_bytes(b"another")
    error = home.refused("export", NAME, "--out", str(tmp_path / "two"), code=2)
    assert "is another model and is not overwritten" in error


def test_the_file_alone_is_enough_to_use_the_model(home: Home, tmp_path: Path) -> None:
    """By hand, from the recipe in the file: what it says of one patient."""
    from safetensors import safe_open

    home.release()
    exported = home.export(tmp_path / "out")
    with safe_open(exported["model"], framework="np") as file:
        facts = json.loads(file.metadata()["cohortium"])
        parameters = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert facts["task"]["positive_codes"] == ["1"]
    patient = {"age": 70.0, "sex": "1", "marker": None}
    inputs = []
    for entry in facts["recipe"]:
        value = patient[entry["column"]]
        if value is None:
            value = entry["gap"]
        elif entry["kind"] == "code":
            value = float(value == entry["equals"])
        scaled = (value - entry["centre"]) / entry["spread"]
        inputs.append(max(-entry["limit"], min(entry["limit"], scaled)))
    assert [entry["name"] for entry in facts["recipe"]] == facts["inputs"]
    assert inputs == [pytest.approx((70 - 59) / 16.4), 0.5, 0.0]
    weight = next(value for value in parameters.values() if value.ndim == 2)
    assert weight.shape == (1, 3)


# ------------------------------------------------------------------ who may


def name_people(home: Home, role: str) -> None:
    path = home.root / "coordinator.toml"
    path.write_text(path.read_text() + f'\n[people]\n"{os_user().id}" = "{role}"\n')


@pytest.mark.parametrize("role", ["lead", "operator", "auditor"])
def test_who_is_not_an_officer_neither_disposes_nor_releases(gap: Home, role: str) -> None:
    flag = gap.flags()[0]["flag"]
    name_people(gap, role)
    reason = ("--as", OFFICER, "--reason", "it is my own study")
    for words in (
        ("disposition", NAME, flag, *reason),
        ("release", NAME, "--override", *reason),
    ):
        rule = "is an auditor in" if role == "auditor" else "is not officer in"
        assert rule in gap.refused(*words)
    assert gap.flags()[0]["open"]
    assert gap.events("model.released") == []


def test_an_officer_releases_and_a_lead_exports_what_was_released(
    home: Home, tmp_path: Path
) -> None:
    name_people(home, "officer")
    home.release()
    path = home.root / "coordinator.toml"
    path.write_text(path.read_text().replace('"officer"', '"operator"'))
    home.refused("export", NAME, "--out", str(tmp_path / "out"))
    path.write_text(path.read_text().replace('"operator"', '"lead"'))
    home.export(tmp_path / "out")
    document = json.loads((tmp_path / "out" / "release.json").read_text())
    assert document["release"]["document"]["signer"] == {
        "auth": "os-user",
        "name": OFFICER,
        "role": "officer",
        "user": os_user().id,
    }
