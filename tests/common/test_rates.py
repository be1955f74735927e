"""fairness/rates.json of every kind of outcome: the platform's own measures, and recomputable."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from tests import audited, bundles, outcomes
from tests.audited import counts, of_sex

from cohortium.common.audit import verify
from cohortium.common.audit.evidence import StudyFacts
from cohortium.common.audit.rates import rates
from cohortium.common.fairness.audit import audit
from cohortium.common.metrics.evaluation import FEDERATED, evaluate
from cohortium.common.metrics.performance import by_group, of_study
from cohortium.common.metrics.tallies import SiteEvaluation
from cohortium.common.study import Study

KINDS = ("binary", "multiclass", "multilabel", "regression", "survival")
# What `measures_*.py` calls the same share; the others are not there, or need no counts.
SAME = ("accuracy", "sensitivity", "specificity", "selection_rate", "ppv", "npv", "prevalence")


def of_kind(kind: str, minimum_cell: int = 5) -> tuple[Study, dict[str, SiteEvaluation]]:
    """Two sites' evaluations as the platform makes them, with small cells hidden."""
    study = outcomes.study(kind)
    found = {}
    for seed, site in enumerate(("north", "south")):
        predicted, outcome = outcomes.patients(kind, 90, seed)
        found[site] = evaluate({FEDERATED: predicted}, outcome, {}, study, minimum_cell)
    return study, found


def document(study: Study, evaluations: Mapping[str, SiteEvaluation]) -> dict[str, Any]:
    facts = StudyFacts(
        study=study,
        digest=study.digest,
        state="completed",
        cause="",
        submitted_at="",
        ended_at="",
        evaluations=evaluations,
        audit=audit(study, evaluations),
    )
    return rates(replace(bundles.made().evidence, studies=(facts,)))


def recomputed(values: dict[str, Any]) -> str:
    """What the verifier says of a document; it raises where a number does not follow."""
    case = verify.Case("", verify.Policy([], {}, {}, "none"), None, False)
    case.files = {"fairness/rates.json": bundles.as_json(values)}
    return verify.check_fairness(case)


@pytest.mark.parametrize("kind", KINDS)
def test_every_rate_of_every_kind_of_outcome_is_recomputed_by_the_verifier(kind: str) -> None:
    study, evaluations = of_kind(kind)
    values = document(study, evaluations)
    assert bool(values["rates"]) == (kind != "regression")
    assert "recomputed from their counts" in recomputed(values)


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel"])
def test_rates_are_the_measures_of_the_platform(kind: str) -> None:
    study, evaluations = of_kind(kind)
    shown = {
        (r["outcome"], r["measure"], r["threshold"], r["site"]): r
        for r in document(study, evaluations)["rates"]
    }
    compared = 0
    for one in of_study(evaluations, study):
        if one.measure not in SAME:
            continue
        threshold = "" if one.threshold is None else f"{one.threshold:g}"
        for site, estimate in (("", one.pooled), *one.sites.items()):
            row = shown.get((one.part, one.measure, threshold, site))
            if row is None:
                continue
            compared += 1
            if estimate.value is None:
                assert row["suppressed"] or row["n"] == 0
                continue
            assert float(row["value"]) == pytest.approx(estimate.value, abs=1e-6)
            low, high = (float(end) for end in row["ci95"])
            assert (low, high) == pytest.approx((estimate.low, estimate.high), abs=1e-6)
    assert compared >= 12


def test_groups_too_and_what_is_hidden_has_its_reason() -> None:
    study, evaluations = audited.study(bundles.SITES), bundles.evaluations()
    rows = [r for r in document(study, evaluations)["rates"] if r["group"] == "none"]
    (south,) = [r for r in rows if (r["site"], r["measure"]) == ("south", "sensitivity")]
    assert south["suppressed"]
    assert south["reason"] == "fewer than 10 patients in a cell"
    (pooled,) = [r for r in rows if (r["site"], r["measure"]) == ("", "sensitivity")]
    assert pooled["sites"] == ["north", "west"]
    for one in by_group(evaluations, study)["insurance", "none"]:
        if (one.measure, one.threshold) == ("sensitivity", 0.5):
            assert one.pooled.value == pytest.approx(float(pooled["value"]), abs=1e-6)


def test_nothing_that_a_site_hides_is_in_the_document() -> None:
    study = audited.study(("north",))
    hidden = of_sex(audited.hidden(), counts(40, 5, 60, 9), overall=audited.hidden())
    shown = [r for r in document(study, {"north": hidden})["rates"] if not r["suppressed"]]
    assert {r["group"] for r in shown} == {"male"}


def test_counts_with_noise_have_no_interval_and_may_contradict_each_other() -> None:
    study = audited.study(("north", "south"))
    noisy = of_sex(counts(40, 5, 60, 9), counts(30, 7, 50, 4), counts(71, 12, 108, 13), noise=2.0)
    values = document(study, {"north": noisy, "south": noisy})
    rows = [r for r in values["rates"] if not r["suppressed"] and r["n"]]
    assert rows
    assert {(tuple(r["ci95"]), r["ci_method"]) for r in rows} == {((), "")}
    assert {r["ci_method"] for r in values["gaps"] if not r["suppressed"]} == {""}
    assert "recomputed" in recomputed(values)


def test_a_rate_of_nobody_has_no_value() -> None:
    study = audited.study(("north",))
    nobody = of_sex(counts(0, 0, 0, 0), counts(40, 5, 60, 9))
    values = document(study, {"north": nobody})
    (row,) = [
        r
        for r in values["rates"]
        if (r["group"], r["measure"], r["site"]) == ("female", "sensitivity", "north")
    ]
    assert (row["k"], row["n"], row["value"], row["ci95"]) == (0, 0, "", [])
    assert "recomputed" in recomputed(values)


def test_the_same_evaluations_in_another_order_give_the_same_document() -> None:
    study, evaluations = audited.study(bundles.SITES), bundles.evaluations()
    turned = dict(reversed(evaluations.items()))
    assert document(study, evaluations) == document(study, turned)
