"""What a card must not leave out, and what nobody may smuggle into it."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from tests.federation import PLAIN, PRIVATE, write_study
from tests.server.test_gates import TALLY, contrast, four, record, spent

from cohortium.common.fairness.verdicts import FairnessAudit, Invisible
from cohortium.common.messages import Consent
from cohortium.common.metrics.performance import performance
from cohortium.common.study import Study
from cohortium.server.gates import Findings, flags
from cohortium.server.model_card import Facts, card, plain
from cohortium.server.release import Dossier, Judged
from cohortium.server.reports.report_data import ModelReport
from cohortium.server.signed import Disposition, Kept, Released, Signer, Subject
from cohortium.server.store import RoundRecord, StudyRow

HOSTILE = "</td><script>alert(1)</script> | [x](http://x) **bold** `code` # head"
SUBJECT = Subject(study="1" * 64, model="2" * 64, evidence="3" * 64, audit="4" * 64)
AUDIT = FairnessAudit(
    contrasts=(contrast("GAP"), contrast("GAP", "b"), contrast("inconclusive", "a")),
    extremes=(),
    invisible=(
        Invisible(attribute="age", level="<50", site=None, reason="seen at no site"),
        Invisible(attribute="sex", level="male", site="b", reason="fewer than 10"),
    ),
)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return write_study(tmp_path, PRIVATE)


def signer(name: str = "Dr. E. Haddad") -> Signer:
    return Signer(name=name, user="haddad", auth="os-user", role="officer")


def facts(
    study: Study,
    *,
    audit: FairnessAudit = AUDIT,
    rounds: list[RoundRecord] | None = None,
    reason: str = "",
    answered: bool = False,
) -> Facts:
    """Of a study with two gaps, one of them at b, and a group that nobody saw."""
    records = rounds or four()
    raised = flags(study, Findings(records, audit))
    row = StudyRow(study, study.digest, "completed", "", "", "", "", 0, 1, 2)
    model = ModelReport(file="model.safetensors", sha256=SUBJECT.model, parameters=4)
    judged = tuple(Judged(flag, None) for flag in raised)
    if answered:
        judged = tuple(Judged(one.flag, _answer(one, study, reason)) for one in judged)
    release = Released(
        meaning="release of this model, every gate being closed"
        if answered
        else "release of this model, overriding the gates that are open",
        subject=SUBJECT,
        study_name=study.name,
        parameters=4,
        closed=(),
        overridden=() if answered else tuple("5" * 64 for _ in raised),
        reason="" if answered else reason,
        signer=signer(),
        at="2026-11-22T14:03:42.000Z",
    )
    return Facts(
        dossier=Dossier(row, SUBJECT, model, b"", audit, raised),
        rounds=records,
        consents={
            name: Consent(decision="approved", approvers=("Dr. Weiss",), patients=band)
            for name, band in {"a": "100-199", "b": "20-49", "c": "500-999"}.items()
        },
        performance=performance(dict.fromkeys(study.sites.names, TALLY), (0.5,)),
        judged=judged,
        release=Kept(release, b"", b"\x07" * 64, "event-1"),
        fingerprint="SHA256:key",
    )


def _answer(one: Judged, study: Study, reason: str) -> Kept[Disposition]:
    document = Disposition(
        subject=SUBJECT,
        study_name=study.name,
        flag=one.flag,
        decision="accept",
        reason=reason,
        signer=signer(),
        at="2026-11-21T09:00:00.000Z",
    )
    return Kept(document, b"", b"", "event-2")


def section(text: str, title: str) -> str:
    """What stands under a heading."""
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_every_part_that_a_reader_needs_is_there(study: Study) -> None:
    text = card(facts(study, answered=True, reason="known and small"))
    assert text.startswith("---\nlicense: unknown\npipeline_tag: tabular-classification\n")
    titles = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert titles == [
        "Purpose",
        "Data",
        "Training",
        "Privacy",
        "Evaluation",
        "Between groups of patients",
        "Groups that nobody could see",
        "Flags and who answered for them",
        "Safeguards that were turned off",
        "Limits",
        "How to load it",
        "Proof",
    ]
    assert "| b | 20-49 | trained in 4 of 4 rounds |" in section(text, "Data")
    assert "promised epsilon 3 at delta 1e-05" in section(text, "Privacy")
    assert "| a | 2.990 | 1e-05 |" in section(text, "Privacy")
    assert re.search(r"\| accuracy at 0.5 \| 0\.833 \(0\.\d+ to 0\.\d+\)", text)
    assert "| **GAP** | 1 GAP, 1 inconclusive |" in section(text, "Between groups of patients")
    assert "| age: \\<50 | every site | seen at no site |" in text
    assert "accept by Dr. E. Haddad, 2026-11-21T09:00:00.000Z | known and small |" in text
    assert "RELEASED OVER" not in text
    for digit in "1234":
        assert digit * 64 in section(text, "Proof")


def test_an_override_comes_before_everything_else(study: Study) -> None:
    text = card(facts(study, reason="no other model exists"))
    assert re.findall(r"^## (.+)$", text, re.MULTILINE)[0] == "RELEASED OVER OPEN GATES"
    assert "no other model exists" in section(text, "RELEASED OVER OPEN GATES")
    assert section(text, "Flags and who answered for them").count("**OPEN**") == 3


def test_a_hostile_text_stays_text(study: Study) -> None:
    purpose = study.purpose.model_copy(update={"text": HOSTILE, "legal_basis": HOSTILE})
    hostile = study.model_copy(update={"purpose": purpose})
    for answered in (True, False):
        text = card(facts(hostile, answered=answered, reason=HOSTILE))
        assert "<script" not in re.sub(r"\\<", "", text)
        assert text.count(plain(HOSTILE)) >= 3
        for line in text.splitlines():
            if line.startswith("| fairness | "):
                assert len(re.findall(r"(?<!\\)\|", line)) == 5


def test_a_blinded_card_names_no_site_and_shows_no_number_of_one(study: Study) -> None:
    names = study.sites.model_copy(update={"names": ("northgate", "harbour", "hillside")})
    evaluation = study.evaluation.model_copy(update={"blinded": True})
    blinded = study.model_copy(update={"sites": names, "evaluation": evaluation})
    accounts = dict(zip(names.names, (spent(2.9), spent(2.8), spent(2.7)), strict=True))
    out = {"hillside": "reply.protocol: x"}
    rounds = [
        record(n, names.names, names.names, accounts=accounts, refused=out) for n in (1, 2, 3, 4)
    ]
    there = contrast("GAP", "harbour").model_copy(update={"gap": -0.777})
    unseen = Invisible(attribute="sex", level="male", site="harbour", reason="few")
    audit = FairnessAudit(contrasts=(contrast("GAP"), there), extremes=(), invisible=(unseen,))
    made = facts(blinded, audit=audit, rounds=rounds, reason="for the committee")
    consents = dict(zip(names.names, made.consents.values(), strict=True))
    text = card(replace(made, consents=consents))
    for name in names.names:
        assert name not in text
    assert "0.777" not in text
    assert "one site: sex: male against female, equal opportunity |" in text
    assert "one site: replies were left out as implausible |" in text
    bands = re.findall(r"\| a site \(\d\) \| ([\d-]+) \|", section(text, "Data"))
    assert bands == sorted(bands)


def test_what_was_turned_off_is_said(tmp_path: Path) -> None:
    study = write_study(tmp_path, PLAIN, '[strategy]\nweighting = "exact"\n[release]\ngates = []\n')
    text = card(facts(study, rounds=[record(n, accounts={}) for n in (1, 2, 3, 4)], answered=True))
    off = section(text, "Safeguards that were turned off")
    assert 'privacy.mechanism = "none"' in off
    assert 'strategy.weighting = "exact"' in off
    for gate in ("fairness", "measured", "epsilon", "quarantine"):
        assert f"`{gate}` is not among `release.gates`\n" in off + "\n"
    assert "**None.**" in section(text, "Privacy")


def test_a_model_that_nobody_measured_is_said_to_be_so(study: Study) -> None:
    made = facts(study, audit=FairnessAudit(contrasts=(), extremes=(), invisible=()), reason="x")
    text = card(replace(made, performance=()))
    assert "Not measured" in section(text, "Evaluation")
    assert "Not looked at" in section(text, "Between groups of patients")
