"""The gate `privacy_audit`: what a site must have shown of the code that trained."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.federation import PLAIN, PRIVATE, Federation, approve, federate, write_study
from tests.server.test_gates import NOTHING, four, only, record

from cohortium.client.selftest.result import Found, keep
from cohortium.common.audit.documents import Documents
from cohortium.common.audit.events import read_event
from cohortium.common.document import canonical
from cohortium.common.evaluating import Gate
from cohortium.common.privacy.ledger_row import Accountant, LedgerRow, Lifetime
from cohortium.common.privacy.selftest import Level, Selftest, Verdict
from cohortium.common.study import Study
from cohortium.server.consortium import Consortium
from cohortium.server.coordinator import run_study
from cohortium.server.gates import Findings, Flag, flags
from cohortium.server.release import examine
from cohortium.server.selftests import selftests, training_codes

NOW, OLD = "a" * 64, "b" * 64
GATES: tuple[Gate, ...] = ("privacy_audit",)
SUBJECT = "no empirical audit shows that its training is as private as promised"


def declaring(study: Study) -> Study:
    return study.model_copy(update={"release": study.release.model_copy(update={"gates": GATES})})


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return declaring(write_study(tmp_path, PRIVATE))


def audit_of(
    level: Level, verdict: Verdict = "passed", code: str = NOW, site: str = "a", study: str = ""
) -> Selftest:
    return Selftest(
        site=site,
        level=level,
        verdict=verdict,
        words="said",
        code=code,
        study=study,
        at="2026-11-22T14:03:42.000Z",
    )


BOTH = (audit_of("L0"), audit_of("L1"))


def raised(
    study: Study,
    tests: Sequence[Selftest],
    codes: Mapping[str, frozenset[str]] | None = None,
) -> tuple[Flag, ...]:
    """The flags where b and c have shown all, and `tests` are those of a."""
    shown = {"a": tests, "b": BOTH, "c": BOTH}
    return flags(study, Findings(four(), NOTHING, selftests=shown, codes=codes or {}))


def test_a_site_without_any_audit_is_a_flag_of_that_site(study: Study) -> None:
    assert [flag.site for flag in flags(study, Findings(four(), NOTHING))] == ["a", "b", "c"]
    flag = only(raised(study, ()))
    assert (flag.gate, flag.text) == ("privacy_audit", f"a: {SUBJECT}: L0 and L1 were not run")


def test_both_levels_passed_close_the_gate(study: Study) -> None:
    assert raised(study, BOTH) == ()
    assert raised(study, BOTH, {"a": frozenset({NOW})}) == ()


@pytest.mark.parametrize(
    ("tests", "said"),
    [
        ([audit_of("L0")], "L1 was not run"),
        ([audit_of("L1")], "L0 was not run"),
        ([audit_of("L0"), audit_of("L1", "inconclusive")], "L1 was inconclusive"),
        ([audit_of("L0", "failed"), audit_of("L1")], "L0 failed"),
        ([audit_of("L0"), audit_of("L1", "failed")], "L1 failed"),
        ([audit_of("L0", "failed"), *BOTH], "L0 failed and passed later"),
        ([*BOTH, audit_of("L0", "failed")], "L0 failed"),
        ([*BOTH, audit_of("L0", code=OLD)], "L1 was not run"),  # the newest audit's code counts
    ],
)
def test_what_is_missing_or_failed_is_said(
    study: Study, tests: Sequence[Selftest], said: str
) -> None:
    assert only(raised(study, tests)).numbers == said


def test_an_audit_of_other_code_than_trained_shows_nothing(study: Study) -> None:
    flag = only(raised(study, BOTH, {"a": frozenset({OLD})}))
    assert flag.numbers == (
        "L0 of the code bbbbbbbbbbbb that trained was not run; "
        "L1 of the code bbbbbbbbbbbb that trained was not run"
    )
    both = {"a": frozenset({OLD, NOW})}
    assert "bbbbbbbbbbbb" in only(raised(study, BOTH, both)).numbers
    older = (audit_of("L0", code=OLD), audit_of("L1", code=OLD))
    assert raised(study, [*older, *BOTH], both) == ()
    failed_before = (audit_of("L0", "failed", code=OLD), *BOTH)
    assert raised(study, failed_before, {"a": frozenset({NOW})}) == ()


def test_a_failed_audit_of_the_study_itself_keeps_the_gate_open(study: Study) -> None:
    mine, other = study.digest, "c" * 64
    flag = only(raised(study, [*BOTH, audit_of("L2", "failed", study=mine)]))
    assert flag.numbers == "L2 of this study failed"
    assert raised(study, [*BOTH, audit_of("L2", "failed", study=other)]) == ()
    assert raised(study, [*BOTH, audit_of("L2", "inconclusive", study=mine)]) == ()
    said = only(raised(study, [audit_of("L0"), audit_of("L2", "inconclusive", study=mine)]))
    assert said.numbers == "L1 was not run; L2 of this study inconclusive"


def test_sites_that_trained_nothing_and_studies_without_privacy_have_nothing_to_show(
    study: Study, tmp_path: Path
) -> None:
    rounds = [record(n, replied=("b", "c"), measured=("b", "c")) for n in (1, 2, 3, 4)]
    shown = {"b": BOTH, "c": BOTH}
    assert flags(study, Findings(rounds, NOTHING, selftests=shown)) == ()
    (tmp_path / "plain").mkdir()
    plain = declaring(write_study(tmp_path / "plain", PLAIN))
    assert flags(plain, Findings(four(accounts={}), NOTHING)) == ()


def test_a_study_that_does_not_declare_the_gate_asks_nobody(tmp_path: Path) -> None:
    study = write_study(tmp_path, PRIVATE)
    shown = {"a": (audit_of("L0", "failed"),)}
    assert flags(study, Findings(four(), NOTHING, selftests=shown)) == ()


# ------------------------------------------------------------------ what counts at the coordinator


def test_a_release_waits_for_the_audits_of_every_site_that_trained(tmp_path: Path) -> None:
    declared = '[release]\ngates = ["privacy_audit"]\n'
    study = write_study(tmp_path, PRIVATE.replace("rounds = 4", "rounds = 1"), declared)
    federation = federate(tmp_path / "all")
    for site in federation.sites.values():
        approve(site, study)
    run_study(study, federation.desk(study))
    federation.store.end(study.digest, "completed", "", "", 0)

    def flagged() -> list[str | None]:
        row = federation.store.study(study.name)
        return [flag.site for flag in examine(row, federation.store, federation.log).flags]

    assert flagged() == ["a", "b", "c"]
    for name in ("a", "b", "c"):
        for level in ("L0", "L1"):
            keep(federation.sites[name], passed(level), "cpu")
        if name != "c":
            hand_over(federation, name)
    assert flagged() == ["c"]
    keep(federation.sites["a"], Found("L0", "failed", "noise is too small"), "cpu")
    hand_over(federation, "a")
    hand_over(federation, "c")
    assert flagged() == ["a"]


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return federate(tmp_path / "all", ("a", "b"))


def consortium(federation: Federation) -> Consortium:
    return Consortium(federation.store.database, federation.key, "consortium")


def hand_over(federation: Federation, name: str, documents: bool = True) -> list[str]:
    """What the witness exchange does: the site's shared events, and what they name."""
    site, database = federation.sites[name], federation.store.database
    lines = [row["line"] for row in site.database.execute("SELECT line FROM shared ORDER BY seq")]
    with database.transaction():
        new = lines[consortium(federation).have(name) :]
        for event in consortium(federation).take(name, new):
            for thing in event.obj if documents else ():
                text = site.documents.text(thing.h)
                if text is not None and thing.t in ("selftest", "ledger.row"):
                    Documents(database).keep_text(thing.t, text.encode())  # type: ignore[arg-type]
    return lines


def passed(level: Any) -> Found:
    return Found(level, "passed", "all is well")


def test_audits_that_sites_recorded_are_found_in_their_order(federation: Federation) -> None:
    site = federation.sites["a"]
    kept = [keep(site, passed(level), "cpu")[0] for level in ("L1", "L0", "L1")]
    keep(federation.sites["b"], passed("L0"), "cpu")
    hand_over(federation, "a")
    hand_over(federation, "b")
    found = selftests(federation.store.database)
    assert found["a"] == tuple(kept)
    assert [test.level for test in found["b"]] == ["L0"]


def test_a_document_that_no_event_names_or_of_another_site_counts_for_nothing(
    federation: Federation,
) -> None:
    database = federation.store.database
    Documents(database).keep("selftest", audit_of("L0"))  # slipped in
    assert selftests(database) == {}
    lent = keep(federation.sites["a"], passed("L0"), "cpu")[0]
    site = federation.sites["b"]
    with site.database.transaction():
        thing = site.documents.keep("selftest", lent)
        site.log.append("privacy.selftest", actor=site.actor, obj=(thing,))
    hand_over(federation, "b")
    assert selftests(database) == {}  # b shows what a has passed
    hand_over(federation, "a", documents=False)
    assert selftests(database) == {"a": (lent,)}  # now a's own event names it


def test_a_changed_or_garbled_document_counts_for_nothing(federation: Federation) -> None:
    site, database = federation.sites["a"], federation.store.database
    failed = Found("L0", "failed", "noise is too small")
    test = keep(site, failed, "cpu")[0]
    hand_over(federation, "a")
    assert selftests(database)["a"][0].verdict == "failed"
    better = canonical(test.model_copy(update={"verdict": "passed"})).decode()
    database.execute("UPDATE documents SET text = ?", (better,))
    assert selftests(database) == {}
    with site.database.transaction():
        thing = site.documents.keep_text("selftest", b'{"v":1}')
        site.log.append("privacy.selftest", actor=site.actor, obj=(thing,))
    hand_over(federation, "a")
    assert selftests(database) == {}


def row(study: str, **changes: Any) -> LedgerRow:
    values: dict[str, Any] = {
        "id": "a-1", "prev": "", "site": "a", "dataset": "ward", "lineage": "ward",
        "study": study, "round": 1, "purpose": "training", "dp": {"type": "Gaussian"},
        "sampler": "poisson", "sample_rate": "0.2", "noise_multiplier": "1.0",
        "clip_norm": "1.0", "clipping": "flat", "steps": 5, "steps_planned": 20, "rng": "AES",
        "floating_point": "x4", "delta": "1e-05", "epsilon": "1.0",
        "accountant": Accountant(name="PLD", version="0.6"),
        "lifetime": Lifetime(
            before="0", after="1", cap="10", delta="1e-05", order="8", spent="1", limit="9"
        ),
        "code": NOW, "software": {}, "at": "2026-11-22T14:03:42.000Z",
    }  # fmt: skip
    return LedgerRow.model_validate({**values, **changes})


def test_the_code_that_trained_is_that_of_the_ledger_rows_that_events_name(
    federation: Federation,
) -> None:
    study, other = "d" * 64, "e" * 64
    site, database = federation.sites["a"], federation.store.database
    rows = [
        (study, row(study)),
        (study, row(study, code=OLD, round=2)),
        (study, row(study, code="1" * 64, purpose="evaluation")),
        (study, row(study, code="2" * 64, site="b")),
        (other, row(other, code="3" * 64)),
    ]
    for about, document in rows:
        with site.database.transaction():
            thing = site.documents.keep("ledger.row", document)
            site.log.append("privacy.spent", actor=site.actor, study=about, obj=(thing,))
    lines = hand_over(federation, "a")
    assert read_event(lines[0], "shared").action == "privacy.spent"
    assert training_codes(database, study) == {"a": frozenset({NOW, OLD})}
    assert training_codes(database, "f" * 64) == {}
