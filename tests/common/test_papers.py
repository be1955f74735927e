"""Papers of the bundle: what is in the evidence is in them, in the place that asks for it."""

import functools
import importlib
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from scipy.stats import norm
from tests import evidence_samples as samples
from tests.evidence_papers import OTHERS, facts, papers, rows, text_of
from tests.evidence_samples import SITES

from cohortium.common.audit.events import DETAIL_KEYS
from cohortium.common.audit.evidence import FlagFacts
from cohortium.common.audit.paper.account import accounts
from cohortium.common.audit.paper.control import SEALED, controls
from cohortium.common.audit.paper.worksheet_1557 import trait
from cohortium.common.fairness.verdicts import FairnessAudit
from cohortium.server.gates import Findings, flags

yaml: Any = importlib.import_module("yaml")  # it has no types


def front_matter(card: bytes) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(card.decode().split("---\n")[1])
    return found


def test_the_same_evidence_gives_the_same_bytes_whatever_the_order_of_its_mappings() -> None:
    one = samples.evidence(facts())
    turned = replace(facts(), consents=dict(reversed(list(facts().consents.items()))))
    other = replace(
        samples.evidence(turned),
        software=dict(reversed(list(one.software.items()))),
        licences=dict(reversed(list(one.licences.items()))),
        ledger=tuple(reversed(one.ledger)),
    )
    assert papers(one) == papers(one)
    assert papers(one) == papers(other)


@pytest.mark.parametrize(
    ("planted", "path"),
    [
        ("Angiography needle 17", "gdpr/ropa.csv"),
        ("Angiography needle 17", "model/made-up/chai-model-card.xml"),
        ("Angiography needle 17", "model/made-up/mlbom.cdx.json"),
        ("Angiography needle 17", "data/datasheets/north.json"),
        ("Article 99 needle", "gdpr/ropa.csv"),
        ("Article 99 needle", "model/made-up/chai-model-card.xml"),
        ("0.4321", "gdpr/dpia-evidence.json"),
        ("0.4321", "privacy/sp800-226.md"),
        ("Dr. E. Haddad", "part11/esignatures.csv"),
        ("measured again in a year", "fairness/1557-worksheet.csv"),
        ("measured again in a year", "model/made-up/mlbom.cdx.json"),
        (samples.MODEL, "annex-iv/index.md"),
        (samples.MODEL, "model/made-up/model.intoto.json"),
        (samples.MODEL, "ro-crate-metadata.json"),
        ("d7" * 32, "model/made-up/model.intoto.json"),
        ("policy.max_rounds (1)", "controls/crosswalk.csv"),
        ("2.13.0+cpu", "model/made-up/sbom.cdx.json"),
        ("1 log.review", "hipaa/security-rule.csv"),
        ("sum of four draws", "privacy/sp800-226.md"),
        ("The card that left.", "model/made-up/model-card.md"),
        ("5000-9999", "data/datasheets/north.json"),
    ],
)
def test_what_is_in_the_evidence_is_in_the_paper_that_asks_for_it(planted: str, path: str) -> None:
    assert planted in planted_papers()[path].decode()


@functools.cache
def planted_papers() -> dict[str, bytes]:
    study = samples.study(
        purpose={"text": "Angiography needle 17", "duo": "GRU", "legal_basis": "Article 99 needle"}
    )
    return papers(samples.evidence(samples.facts(study)))


def test_epsilon_is_said_in_words_as_an_independent_formula_has_it() -> None:
    evidence = samples.evidence(facts())
    mu = (4 / samples.SIGMA**2) ** 0.5  # four full-batch releases, each of sensitivity 1
    share = norm.cdf(norm.ppf(0.01) + mu)
    found = accounts(evidence, facts())
    assert [one.site for one in found] == list(SITES)
    assert found[0].found == pytest.approx(share, rel=1e-6)
    assert found[0].epsilon == "2.000"
    words = f"at most {100 * share:.3g} % of cases"
    files = papers(evidence)
    for path in ("gdpr/dpia-evidence.json", "privacy/sp800-226.md", "model/made-up/mlbom.cdx.json"):
        assert words in files[path].decode(), path


def test_the_last_row_of_a_site_is_the_one_with_the_highest_number_not_the_last_listed() -> None:
    evidence = samples.evidence(facts())
    shuffled = replace(evidence, ledger=tuple(reversed(evidence.ledger)))
    assert accounts(shuffled, facts()) == accounts(evidence, facts())


def test_without_ledger_rows_the_words_are_not_made_up() -> None:
    found = accounts(replace(samples.evidence(facts()), ledger=()), facts())
    assert [(one.epsilon, one.rows, one.found) for one in found] == [("2", 0, None)] * 3
    assert "not computed" in found[0].words


def test_a_release_without_noise_is_found_in_every_case() -> None:
    evidence = samples.evidence(facts())
    bare = tuple(row.model_copy(update={"noise_multiplier": "0"}) for row in evidence.ledger)
    assert "100 % of cases" in accounts(replace(evidence, ledger=bare), facts())[0].words


@pytest.mark.parametrize(
    "path",
    [
        "model/made-up/chai-model-card.xml",
        "model/made-up/mlbom.cdx.json",
        "model/made-up/model-card.md",
        "model/made-up/model.intoto.json",
        "ro-crate-metadata.json",
        "gdpr/ropa.csv",
        "gdpr/dpia-evidence.json",
        "annex-iv/index.md",
        "privacy/sp800-226.md",
        "controls/crosswalk.csv",
        "data/datasheets/north.json",
    ],
)
def test_a_study_without_privacy_says_so_and_one_with_privacy_does_not(path: str) -> None:
    assert "no differential privacy" in plain_papers()[path].decode().lower()
    assert "no differential privacy" not in private_papers()[path].decode().lower()


@functools.cache
def plain_papers() -> dict[str, bytes]:
    unreleased = samples.facts(samples.study(private=False), card="", released=False)
    return papers(samples.evidence(unreleased))


@functools.cache
def private_papers() -> dict[str, bytes]:
    return papers(samples.evidence(facts()))


@pytest.mark.parametrize(("masked", "said"), [(None, "not recorded"), (True, "on"), (False, "off")])
def test_secure_aggregation_is_read_and_never_assumed(masked: bool | None, said: str) -> None:
    evidence = samples.evidence(replace(facts(), secure_aggregation=masked))
    found = next(
        row for row in rows(papers(evidence), "controls/crosswalk.csv")
        if row["control"] == "secure aggregation"
    )  # fmt: skip
    assert found["title"] == said
    measures = json.loads(papers(evidence)["gdpr/dpia-evidence.json"])["studies"][0]["measures"]
    assert [m["state"] for m in measures if m["measure"] == "secure aggregation"] == [said]


def test_a_small_cell_rule_that_no_event_shows_is_not_claimed() -> None:
    evidence = samples.evidence(facts())
    event = samples.event(
        9, "evaluation.completed", "north", study=facts().digest, detail={"suppressed_below": "10"}
    )
    said = "cells below 10 are hidden"
    assert said not in text_of(papers(evidence))
    entry = replace(evidence.entries[0], event=event)
    assert said in text_of(papers(replace(evidence, entries=(*evidence.entries, entry))))


@pytest.mark.parametrize("others", [OTHERS, {}])
def test_every_link_leads_to_a_file_of_the_bundle(others: Mapping[str, bytes]) -> None:
    files = papers(samples.evidence(facts()), others)
    there = {*files, *others, *SEALED}
    index = files["annex-iv/index.md"].decode()
    links = re.findall(r"\]\(\.\./([^)]+)\)", index)
    assert len(links) > 20
    assert set(links) <= there
    for path, column in (
        ("controls/crosswalk.csv", "file"),
        ("hipaa/security-rule.csv", "evidence"),
    ):
        named = [name for row in rows(files, path) for name in row[column].split("; ") if name]
        assert len(named) > 20
        assert set(named) <= there | {"no file in this bundle"}
    assert ("report/report.html" in links) == bool(others)


@pytest.mark.parametrize(
    ("path", "column"),
    [("controls/crosswalk.csv", "residual gap"), ("hipaa/security-rule.csv", "residual")],
)
def test_no_row_claims_that_nothing_is_left_to_do(path: str, column: str) -> None:
    found = rows(private_papers(), path)
    assert len(found) > 25
    assert all(len(row[column]) > 3 for row in found)


def test_what_is_left_out_of_the_bundle_is_in_the_crosswalk_as_a_gap() -> None:
    found = {row["control"]: row for row in rows(private_papers(), "controls/crosswalk.csv")}
    for control in ("modifications", "test report"):
        assert found[control]["file"] == "no file in this bundle"
        assert found[control]["residual gap"].startswith("No file in this bundle")


def test_every_framework_that_is_asked_for_is_in_the_crosswalk() -> None:
    found = {row["framework"] for row in rows(private_papers(), "controls/crosswalk.csv")}
    for name in ("HIPAA", "GDPR", "AI Act", "CFR 11", "800-226", "AI RMF", "27001", "27789",
                 "EHDS", "SOC 2"):  # fmt: skip
        assert any(name in framework for framework in found), name


def test_every_action_that_a_control_counts_is_in_the_vocabulary() -> None:
    assert len(controls()) > 100
    assert {action for one in controls() for action in one.actions.split()} <= set(DETAIL_KEYS)


def test_annex_iv_has_all_points_each_for_the_provider_and_claims_nothing() -> None:
    text = private_papers()["annex-iv/index.md"].decode()
    points = re.findall(r"^\| (\S+) \|.*$", text, re.MULTILINE)[2:]
    wanted = [f"1({c})" for c in "abcdefgh"] + [f"2({c})" for c in "abcdefgh"]
    assert points == [*wanted, *"3456789"]
    assert text.count("PROVIDER TO COMPLETE") == len(points)
    assert "2 August 2028" in text
    assert "complian" not in text.lower()


def test_the_model_index_holds_values_with_intervals_by_group() -> None:
    matter = front_matter(private_papers()["model/made-up/model-card.md"])
    results = matter["model-index"][0]["results"]
    female = next(one for one in results if one["dataset"]["name"].endswith("sex=female"))
    metric = next(one for one in female["metrics"] if one["type"] == "sensitivity")
    groups = [e.groups["sex"]["female"] for e in facts().evaluations.values()]
    tp = sum(getattr(one, "tp") for one in groups)  # noqa: B009 (a tally of any kind)
    fn = sum(getattr(one, "fn") for one in groups)  # noqa: B009
    assert metric["value"] == pytest.approx(tp / (tp + fn), abs=1e-6)
    assert metric["args"]["low"] < metric["value"] < metric["args"]["high"]
    assert matter["license_name"] == "not-stated"
    assert "differential-privacy" in matter["tags"]


def test_every_gap_of_the_worksheet_has_the_answer_to_its_own_flag() -> None:
    made = facts()
    gaps = [r for r in rows(private_papers(), "fairness/1557-worksheet.csv") if r["row"] == "gap"]
    found = [row for row in gaps if row["finding"].startswith("GAP")]
    answered = {re.search(r"flag (\w+)", row["disposition"])[1] for row in found}  # type: ignore[index]
    assert answered == {flag.id for flag in made.flags if flag.gate == "fairness"}
    assert len(found) == len(answered) > 3
    assert all("Dr. E. Haddad" in row["owner"] for row in found)


def test_a_gap_over_all_sites_has_the_answer_to_the_flag_of_the_whole_study() -> None:
    assert facts().audit is not None
    gap = next(c for c in facts().audit.contrasts if c.site is None and c.level == "female")  # type: ignore[union-attr]
    audit = FairnessAudit(
        contrasts=(gap.model_copy(update={"verdict": "GAP"}),), extremes=(), invisible=()
    )
    raised = flags(facts().study, Findings([], audit))
    said = next(flag for flag in raised if flag.gate == "fairness")
    assert said.site is None
    flag = FlagFacts(said.id, said.gate, None, said.text, False, "accept", "known",
                     samples.signature())  # fmt: skip
    files = papers(samples.evidence(replace(facts(), audit=audit, flags=(flag,))))
    found = [r for r in rows(files, "fairness/1557-worksheet.csv") if r["row"] != "input"]
    assert [row["disposition"] for row in found] == [f"accept: known (flag {said.id})"]


def test_an_open_flag_has_no_owner_and_says_who_must_find_one() -> None:
    opened = tuple(replace(flag, open=True, signature=None) for flag in facts().flags)
    files = papers(samples.evidence(replace(facts(), flags=opened)))
    found = [
        row for row in rows(files, "fairness/1557-worksheet.csv") if "OPEN" in row["disposition"]
    ]
    assert len(found) == len(opened)
    assert all(not row["owner"] and "TO COMPLETE" in row["to be completed"] for row in found)


@pytest.mark.parametrize(
    ("expected", "columns"),
    [
        ("sex", "sex gender_at_birth pregnancy"),
        ("age", "age AgeYears birth_date"),
        ("race or colour", "race skinColour ethnicity ethnic_group"),
        ("national origin", "country nationality"),
        ("disability", "disability hearing_impaired"),
        ("", "image stage trace marker dosage essex"),
    ],
)
def test_an_input_that_sounds_like_a_trait_is_pointed_out(columns: str, expected: str) -> None:
    assert {trait(column) for column in columns.split()} == {expected}


def test_two_models_of_one_name_have_a_folder_each() -> None:
    other = samples.facts(samples.study(private=False))
    files = papers(samples.evidence(facts(), other))
    assert "model/made-up/model-card.md" in files
    assert f"model/made-up-{other.digest[:8]}/model-card.md" in files


def test_without_a_model_or_a_study_there_are_papers_that_say_so() -> None:
    files = papers(samples.evidence(replace(facts(), model=None)), {})
    assert not [path for path in files if path.startswith("model/")]
    assert "No model is in this bundle" in files["annex-iv/index.md"].decode()
    nothing = replace(samples.evidence(facts()), studies=(), entries=(), ledger=(), selftests=())
    assert rows(papers(nothing, {}), "gdpr/ropa.csv") == []


def test_who_signed_what_and_why_is_in_one_table() -> None:
    found = rows(private_papers(), "part11/esignatures.csv")
    release = next(row for row in found if row["record"] == "release of the model")
    assert release["printed name (11.50(a)(1))"] == "Dr. E. Haddad"
    assert release["date and time (11.50(a)(2))"] == samples.AT
    assert release["meaning (11.50(a)(3))"] == "release of this model"
    assert release["sha256 of the signed record (11.70)"] == "5e" * 32
    assert len(found) == 1 + len(facts().flags) + len(SITES)
