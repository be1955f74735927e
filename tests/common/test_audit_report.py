"""The report: every number from a record, every text harmless, nothing said that is not known."""

import csv
import hashlib
import io
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.report_evidence import SITES, event, evidence, facts, log

from cohortium.common.audit.audience import PERSONS, SIGNED, View
from cohortium.common.audit.events import DETAIL_KEYS
from cohortium.common.audit.evidence import Evidence
from cohortium.common.audit.report import budget, egress, fairness, record, signatures, studies
from cohortium.common.audit.report.files import fairness_files, report_files, study_files
from cohortium.common.audit.report.page import page
from cohortium.common.audit.report.table import Table, csv_bytes, safe
from cohortium.common.audit.report.words import found, numbers, share_found
from cohortium.common.audit.writers import write_all
from cohortium.common.errors import CohortiumError

NAME = "Zoltan-Q7x"
TEXT = st.text(st.characters(codec="utf-8"), max_size=30)


# ------------------------------------------------------------------ who may see what


@given(
    action=st.sampled_from(sorted(DETAIL_KEYS)),
    where=st.sampled_from(["actor", "reason", *sorted(PERSONS)]),
    before=st.sampled_from(["", "stopped by ", "study.stopped: by "]),
)
def test_wherever_a_person_is_named_a_consortium_does_not_see_it(
    action: str, where: str, before: str
) -> None:
    values: dict[str, Any] = {}
    if where == "actor":
        values["actor"] = {"type": "person", "id": NAME, "auth": "os-user"}
    elif where == "reason":
        values["reason"] = before + NAME
    elif where in DETAIL_KEYS[action]:
        values["detail"] = {where: NAME}
    one = event(1, action, **values)
    shown = View("consortium").shows(one)
    named = NAME in one.line
    if named and action not in SIGNED and not (where == "reason" and _ours(action)):
        assert not shown
    if not named:
        assert shown
    assert View("regulator").shows(one)
    assert View("site").shows(one)


def _ours(action: str) -> bool:
    """Their reasons are our own texts: of what was measured, of what a token was not."""
    return action in ("flag.raised", "auth.fail")


def test_a_reason_is_for_a_consortium_its_rule_alone() -> None:
    assert View("consortium").said("study.rejected: by Dr. Weiss") == "study.rejected"
    assert View("consortium").said("stopped by Dr. Weiss") == ""
    assert View("regulator").said("stopped by Dr. Weiss") == "stopped by Dr. Weiss"


@given(
    study=st.sampled_from(["", "a" * 64]), of=st.sampled_from([None, "a" * 64, "b" * 64]),
    place=st.integers(0, 40), since=st.integers(0, 40), until=st.integers(0, 40),
)  # fmt: skip
def test_an_export_shows_what_was_asked_for_and_every_seal(
    study: str, of: str | None, place: int, since: int, until: int
) -> None:
    one = event(place, "round.aggregated", study=of)
    first, last = (event(n, "log.started").ts for n in (since, until))
    asked = (not study or of in (None, study)) and since <= place <= until
    assert View("regulator", study, first, last).shows(one) is asked
    assert View("regulator", study, first, last).shows(event(place, "export.sealed", study=of))


# ------------------------------------------------------------------ CSV


@given(st.lists(st.tuples(TEXT, TEXT), max_size=5))
def test_a_csv_file_gives_back_every_cell_and_no_spreadsheet_computes_one(
    rows: list[tuple[str, str]],
) -> None:
    table = Table("t", "T", ("one", "=two"), tuple(rows), "none")
    read = list(csv.reader(io.StringIO(csv_bytes(table).decode(), newline="")))
    assert read[0] == ["one", "'=two"]
    for cells, row in zip(read[1:], rows, strict=True):
        for cell, value in zip(cells, row, strict=True):
            assert cell.removeprefix("'") == value or cell == value
            assert not cell.startswith(("=", "+", "-", "@")) or _number(cell)


def _number(cell: str) -> bool:
    return math.isfinite(float(cell))


def test_a_formula_becomes_text_and_a_negative_number_stays_one() -> None:
    assert safe("=HYPERLINK(1)") == "'=HYPERLINK(1)"
    assert safe("-1+cmd|' /C calc'!A0") == "'-1+cmd|' /C calc'!A0"
    assert safe("@SUM(1)") == "'@SUM(1)"
    assert safe("-0.03") == "-0.03"


def test_lines_end_as_rfc_4180_says_and_a_comma_is_quoted() -> None:
    table = Table("t", "T", ("a", "b"), (('x,"y"', "z"),), "none")
    assert csv_bytes(table) == b'a,b\r\n"x,""y""",z\r\n'


# ------------------------------------------------------------------ HTML

HOSTILE = "<script>alert('x')</script>\"&"


def test_no_text_of_a_study_or_an_event_becomes_markup() -> None:
    one = facts()
    purpose = one.study.purpose.model_copy(update={"text": HOSTILE})
    study = one.study.model_copy(update={"purpose": purpose})
    flag = replace(one.flags[1], text=HOSTILE)
    events = [event(0, "auth.fail", outcome="denied", reason=HOSTILE)]
    found = evidence(
        events,
        studies=(replace(one, study=study, cause=HOSTILE, flags=(flag,)),),
        officer=HOSTILE,
        node=HOSTILE,
    )
    text = page(found)
    assert "<script" not in text
    assert "alert('x')" not in text
    assert text.count("&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;&quot;&amp;") >= 6


def test_a_page_of_nothing_says_that_there_is_nothing() -> None:
    text = page(evidence([], 0, studies=(), ledger=(), selftests=(), witnessed=(), sites=()))
    for words in (
        "Nobody has decided anything yet.",
        "No message about patients is recorded.",
        "No entry of a privacy ledger is shown.",
        "No flag is open.",
        "nobody has confirmed the log yet",
    ):
        assert words in text


def test_a_site_is_not_told_that_no_flag_is_open_where_it_cannot_know() -> None:
    text = page(evidence([], 0, role="site", audience="site", node="north"))
    assert "coordinator&#x27;s to raise: its bundle shows them" in text
    assert "No flag is open." not in text


# ------------------------------------------------------------------ what is said


def test_what_epsilon_means_is_what_the_definition_gives() -> None:
    """Worked out by hand: e^1 x 1% = 2.7%; with epsilon 10, 1 - e^-10 x 0.99."""
    assert found(0.0, 0.0) == pytest.approx(0.01)
    assert found(1.0, 0.0) == pytest.approx(0.0271828, abs=1e-6)
    assert found(1.0, 0.5) == pytest.approx(0.5271828, abs=1e-6)
    assert found(10.0, 0.0) == pytest.approx(1 - 0.99 * math.exp(-10))
    assert found(math.inf, 0.0) == 1.0
    assert share_found(found(1.0, 1e-5)) == "2.8%"  # 2.719, rounded up


@given(st.floats(0, 50), st.floats(0, 0.1), st.floats(0.001, 0.5))
def test_no_randomised_response_beats_what_is_said(
    epsilon: float, delta: float, alarms: float
) -> None:
    """The best attack on randomised response, mixed with guessing, stays below the bound."""
    honest = math.exp(epsilon) / (1 + math.exp(epsilon))
    right = min(1.0, alarms * honest / (1 - honest)) if honest < 1 else 1.0
    if alarms <= 1 - honest:
        assert right <= found(epsilon, delta, alarms) + 1e-9
    assert alarms - 1e-9 <= found(epsilon, delta, alarms) <= 1


def test_a_ledger_row_counts_before_an_event_and_an_event_before_a_reply() -> None:
    spent = {"dataset": "clinic", "epsilon_after": "0.5", "cap": "4", "delta": "1e-5"}
    one = evidence([event(0, "privacy.spent", "south", detail=spent)])
    found = budget.accounts(one)
    assert [(a.site, a.dataset, a.spent, a.cap, a.entries, a.source) for a in found] == [
        ("north", "ward-2026", 2.5, 8.0, 2, budget.ROW),
        ("south", "clinic", 0.5, 4.0, 1, budget.EVENT),
        ("south", "ward-2026", 8.4, 8.0, 1, budget.ROW),
        ("west", "ward", 2.5, 8.0, 2, budget.REPLY),
    ]
    assert "tile bad" in page(one)  # south is above its cap


def test_only_the_message_itself_left_not_what_its_event_names_beside_it() -> None:
    found = egress.messages(evidence())
    updates = [m for m in found if m.kind == "update"]
    assert [(m.site, m.round, m.bytes, m.received) for m in updates] == [
        (site, number, 4096 + number, 4500) for site in SITES for number in (1, 2)
    ]
    evaluated = [m for m in found if m.kind == "evaluated"]
    assert {(m.bytes, m.received, m.event) for m in evaluated} == {(None, 900, "")}
    assert {m.kind for m in found} == {"update", "evaluated"}
    (first, *_) = egress.summary(evidence(), found).rows
    assert first[:3] == ("made-up", "north", "1 to 2")
    assert first[-1] == "2 of 4"


def test_a_message_that_was_refused_did_not_leave() -> None:
    failed = event(0, "round.update.sent", "north", outcome="failure", reason="x.y", round=9,
                   obj=[{"t": "update", "h": "sha256:" + "ab" * 32, "bytes": 1}])  # fmt: skip
    assert [m for m in egress.messages(evidence([failed])) if m.round == 9] == []


def test_flags_are_open_until_somebody_has_signed_and_the_signature_stands_beside() -> None:
    one = evidence()
    assert [row[2] for row in studies.open_flags(one).rows] == ["4e5f6a7b"]
    answered = studies.all_flags(one).rows[0]
    assert answered[4:] == (
        "accept", "Dr. E. Haddad", "2026-11-20T09:30:00.000Z", "measured again in a year",
    )  # fmt: skip
    signed = signatures.signatures(signatures.decisions(one)).rows
    assert [(row[1], row[2], row[4]) for row in signed] == [
        ("flag 0a1b2c3d", "Dr. E. Haddad", "disposition of this flag"),
        ("model 121212121212", "Dr. E. Haddad", "release"),
    ]


def test_alarms_reviews_and_refusals_are_found_in_the_log() -> None:
    one = evidence()
    assert [row[4] for row in record.alarms(one).rows] == ["dataset.retired"]
    (review,) = record.reviews(one).rows
    assert review[1:4] == ("Q. Auditor", "0 to 12", "one refusal, explained")
    assert [(row[1], row[5]) for row in record.refusals(one).rows] == [
        ("net", "policy.hours"), ("east", "no such token"),
    ]  # fmt: skip
    (export,) = record.exports(one).rows
    assert export[1:3] == ("Dr. E. Haddad", "consortium")


def test_a_witness_that_has_confirmed_nothing_is_named() -> None:
    rows = {row[0]: row[1:] for row in record.witnesses(evidence()).rows}
    assert rows["west"] == ("nothing yet", "", "")
    assert rows["south"][0] == "the first 12 events"
    assert rows["south"][1] == log()[11].ts


def test_every_gap_on_the_page_is_in_the_file_of_contrasts() -> None:
    one = evidence()
    gaps = fairness.gaps(one).rows
    assert gaps
    assert set(gaps) <= set(fairness.contrasts(one).rows)
    assert {row[0] for row in fairness.summary(one).rows} == {"made-up"}
    read = list(csv.reader(io.StringIO(fairness_files(one)["fairness/contrasts.csv"].decode())))
    assert len(read) == 1 + len(fairness.contrasts(one).rows)


@pytest.mark.parametrize(
    ("rounds", "said"), [((1, 2, 3, 7), "1 to 3, 7"), ((), ""), ((5,), "5"), ((2, 2, 1), "1 to 2")]
)
def test_rounds_are_said_in_runs(rounds: tuple[int, ...], said: str) -> None:
    assert numbers(rounds) == said


# ------------------------------------------------------------------ files


def test_the_same_evidence_gives_the_same_files() -> None:
    assert write_all(evidence()) == write_all(evidence())
    assert {f"report/{name}.csv" for name in (
        "approvals", "egress", "refusals", "log-review", "traceability", "open-flags", "budget",
        "signatures",
    )} <= set(report_files(evidence()))  # fmt: skip


def test_a_study_is_written_as_it_was_approved_and_two_of_one_name_both() -> None:
    one = facts()
    other = replace(one, digest="f" * 64)
    files = study_files(evidence(studies=(one,)))
    (content,) = files.values()
    assert list(files) == ["studies/made-up/study.json"]
    assert hashlib.sha256(content).hexdigest() == one.digest
    assert set(study_files(evidence(studies=(one, other)))) == {
        f"studies/made-up-{one.digest[:8]}/study.json", "studies/made-up-ffffffff/study.json",
    }  # fmt: skip


def test_two_writers_of_one_file_are_a_mistake_that_is_said() -> None:
    def again(found: Evidence) -> dict[str, bytes]:
        return {"report/egress.csv": b""}

    with pytest.raises(CohortiumError, match=r"two writers .* report/egress\.csv"):
        write_all(evidence(), (again,))
