"""What an audit must not get wrong, on tables that can be checked by hand."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.audited import counts, evaluation, hidden, of_sex, study, ward

from cohortium.common.fairness.adjust import benjamini_hochberg, holm
from cohortium.common.fairness.audit import audit
from cohortium.common.fairness.verdicts import Contrast, FairnessAudit
from cohortium.common.metrics.tallies import (
    BinaryTally,
    MulticlassTally,
    MultilabelTally,
    RegressionTally,
    SiteEvaluation,
)

SEX: dict[str, Any] = {"attributes": ["sex"], "reference": {"sex": "male"}}
WARDS = {
    "north": ward(1, 150, harder="female"),
    "south": ward(2, 240),
    "west": ward(3, 90, harder="none"),
}


def of(evaluations: Mapping[str, SiteEvaluation], **more: Any) -> FairnessAudit:
    return audit(study(tuple(evaluations), **{"fairness": SEX, **more}), evaluations)


def one(found: FairnessAudit, criterion: str, site: str | None = None, **more: Any) -> Contrast:
    wanted = {"attribute": "sex", "criterion": criterion, "site": site, **more}
    (only,) = [
        c for c in found.contrasts if all(getattr(c, key) == value for key, value in wanted.items())
    ]
    return only


def test_a_perfect_classifier_on_a_ward_without_sick_patients_has_no_gap() -> None:
    """Ward b has nobody to find; fairlearn would say sensitivity 0 there, and a gap of 1."""
    found = of(
        {
            "a": of_sex(counts(40, 0, 60, 0), counts(50, 0, 50, 0), counts(90, 0, 110, 0)),
            "b": of_sex(counts(0, 0, 80, 0), counts(0, 0, 70, 0), counts(0, 0, 150, 0)),
        }
    )
    pooled = one(found, "equal_opportunity")
    assert (pooled.value, pooled.reference_value, pooled.gap) == (1.0, 1.0, 0.0)
    assert pooled.verdict == "inconclusive"
    assert (pooled.of, pooled.reference_of) == (40, 50)
    at_b = one(found, "equal_opportunity", "b")
    assert (at_b.value, at_b.gap, at_b.verdict) == (None, None, "not measured")
    assert at_b.reason == "female: no patient has the outcome"
    ward_b = one(found, "equal_opportunity", attribute="site", level="b")
    assert (ward_b.value, ward_b.verdict) == (None, "not measured")
    gaps = [c.verdict for c in found.contrasts if c.criterion == "equal_opportunity"]
    assert "GAP" not in gaps
    assert all(e.worst == 1.0 for e in found.extremes if e.criterion == "equal_opportunity")


def test_a_level_without_sick_patients_has_no_sensitivity_of_zero() -> None:
    found = of({"a": of_sex(counts(0, 5, 60, 0), counts(50, 0, 50, 0))})
    assert one(found, "equal_opportunity").value is None
    assert one(found, "false_positive_rate").value == pytest.approx(5 / 65)
    odds = next(o for o in found.equalised_odds if o.site is None and o.attribute == "sex")
    assert (odds.verdict, odds.gap) == ("not measured", None)


def test_a_site_that_hides_one_group_does_not_distort_the_other() -> None:
    """Site b shows only its men, who do badly there: they must not make women look better."""
    good, bad = counts(90, 10, 90, 10), counts(10, 90, 10, 90)
    found = of({"a": of_sex(good, good), "b": of_sex(hidden(), bad)})
    pooled = one(found, "equal_opportunity")
    assert (pooled.value, pooled.reference_value) == (0.9, 0.9)
    assert pooled.sites == ("a",)
    at_b = one(found, "equal_opportunity", "b")
    assert at_b.verdict == "not measured"
    assert at_b.reason == "female: fewer than 10 patients in a cell"


def test_a_group_that_no_site_shows_beside_its_reference_is_not_measured() -> None:
    some = counts(90, 10, 90, 10)
    found = of({"a": of_sex(hidden(), some), "b": of_sex(some, hidden())})
    pooled = one(found, "equal_opportunity")
    assert (pooled.verdict, pooled.reason) == ("not measured", "no site shows both groups")
    assert (pooled.value, pooled.gap, pooled.p, pooled.n) == (None,) * 4


def test_harm_to_one_group_is_a_gap_and_equal_groups_are_within_the_margin() -> None:
    bad, good = counts(500, 100, 900, 500), counts(900, 100, 900, 100)
    found = of({"a": of_sex(bad, good)})
    assert one(found, "equal_opportunity").verdict == "GAP"
    assert one(found, "equal_opportunity").gap == pytest.approx(0.5 - 0.9)
    assert one(found, "false_positive_rate").verdict == "within margin"
    odds = next(o for o in found.equalised_odds if o.site is None)
    assert odds.verdict == "GAP"
    assert odds.gap == pytest.approx(0.4)
    worst = next(e for e in found.extremes if e.criterion == "equal_opportunity")
    assert worst.worst_level == "female"
    assert worst.gap_low < 0.4 < worst.gap_high


def test_few_patients_are_inconclusive_and_it_says_what_they_could_show() -> None:
    found = one(of({"a": of_sex(counts(10, 2, 8, 2), counts(80, 20, 80, 20))}), "equal_opportunity")
    assert found.verdict == "inconclusive"
    assert found.detectable is not None
    assert found.detectable > 0.3


def test_a_margin_of_the_study_is_the_one_that_counts() -> None:
    table = {"a": of_sex(counts(800, 100, 900, 200), counts(900, 100, 900, 100))}
    assert one(of(table), "equal_opportunity").verdict == "GAP"
    wide = {**SEX, "margins": {"equal_opportunity": 0.2}}
    assert one(of(table, fairness=wide), "equal_opportunity").verdict == "within margin"


def test_only_declared_attributes_by_the_primary_criterion_are_primary() -> None:
    found = audit(study(), {site: evaluation(rows) for site, rows in WARDS.items()})
    primary = [c for c in found.contrasts if c.primary]
    assert {(c.attribute, c.level, c.criterion, c.site) for c in primary} == {
        ("sex", "female", "equal_opportunity", None),
        ("insurance", "private", "equal_opportunity", None),
        ("insurance", "none", "equal_opportunity", None),
    }
    p = [c.p for c in primary]
    assert None not in p
    assert [c.adjusted_p for c in primary] == pytest.approx(holm([x for x in p if x is not None]))
    others = [c for c in found.contrasts if not c.primary and c.p is not None]
    expected = benjamini_hochberg([c.p for c in others if c.p is not None])
    assert [c.adjusted_p for c in others] == pytest.approx(expected)
    assert all(c.adjusted_p is None for c in found.contrasts if c.p is None)


def test_an_intersection_is_compared_with_the_references_of_both() -> None:
    found = audit(study(), {site: evaluation(rows) for site, rows in WARDS.items()})
    levels = {c.level for c in found.contrasts if c.attribute == "sex x insurance"}
    assert len(levels) == 5
    references = {c.reference for c in found.contrasts if c.attribute == "sex x insurance"}
    assert references == {"male x public"}


def test_a_tiny_group_is_not_the_worst_by_bad_luck() -> None:
    """Seven patients found of ten is the lowest share, but says less than 300 of 400."""
    levels = {
        "public": counts(270, 0, 0, 30),
        "private": counts(300, 0, 0, 100),
        "none": counts(7, 0, 0, 3),
    }
    there = SiteEvaluation(overall=hidden(), groups={"insurance": levels})
    found = of({"a": there}, fairness={"attributes": ["insurance"]})
    extreme = next(e for e in found.extremes if e.criterion == "equal_opportunity")
    assert extreme.worst_level == "private"
    assert extreme.shrunken["private"] < extreme.shrunken["none"] < 0.85
    assert extreme.worst_low < 0.6
    assert extreme.levels == 3


def test_an_extreme_is_the_same_whenever_it_is_computed_and_other_for_another_study() -> None:
    table = {"a": of_sex(counts(10, 2, 8, 2), counts(80, 20, 80, 20))}
    wide = {**SEX, "margins": {"accuracy": 0.2}}
    assert of(table).extremes == of(table).extremes
    assert of(table).extremes != of(table, fairness=wide).extremes


def test_extremes_compare_levels_at_the_same_sites() -> None:
    """Nobody sees `none` at site b, whose results are worse for all."""
    fine, poor = counts(90, 10, 90, 10), counts(50, 50, 50, 50)
    at_a = {"public": fine, "private": fine, "none": fine}
    at_b = {"public": poor, "private": poor, "none": hidden()}
    found = of(
        {
            "a": SiteEvaluation(overall=hidden(), groups={"insurance": at_a}),
            "b": SiteEvaluation(overall=hidden(), groups={"insurance": at_b}),
        },
        fairness={"attributes": ["insurance"]},
    )
    extreme = next(e for e in found.extremes if e.criterion == "accuracy")
    assert (extreme.sites, extreme.levels, extreme.worst) == (("a",), 3, 0.9)


def test_who_cannot_be_seen_is_listed_with_the_reason() -> None:
    some = counts(90, 10, 90, 10)
    unrecorded = {"female": counts(0, 0, 0, 0), "male": counts(0, 0, 0, 0), "unknown": some}
    partly = {"female": hidden(), "male": some, "unknown": counts(3, 3, 3, 3)}
    found = audit(
        study(("a", "b", "c", "d", "e"), SEX),
        {
            "a": of_sex(hidden("hidden so that a smaller group cannot be worked out"), some),
            "b": of_sex(counts(0, 0, 0, 0), some),
            "c": SiteEvaluation(overall=some, groups={}),
            "d": SiteEvaluation(overall=some, groups={"sex": unrecorded}),
            "e": SiteEvaluation(overall=some, groups={"sex": partly}),
        },
    )
    seen = {(i.level, i.site): i.reason for i in found.invisible}
    assert seen[("female", None)] == "seen at no site"
    assert ("male", None) not in seen
    assert seen[("female", "a")] == "hidden so that a smaller group cannot be worked out"
    assert seen[("female", "b")] == "no patients"
    assert seen[("female", "c")] == "the site sends no results by sex"
    assert seen[("male", "d")] == "the site records sex for nobody"
    assert seen[("unknown", "d")] == "sex is not recorded for 200 patients"
    assert seen[("unknown", "e")] == "sex is not recorded for 12 patients"
    assert ("male", "a") not in seen


def test_patients_of_unknown_sex_are_compared_too_but_are_not_primary() -> None:
    some = counts(90, 10, 90, 10)
    levels = {"female": some, "male": some, "unknown": counts(30, 60, 40, 70)}
    found = of(
        {"a": SiteEvaluation(overall=hidden(), groups={"sex": levels}), "b": of_sex(some, some)}
    )
    pooled = one(found, "equal_opportunity", level="unknown")
    assert (pooled.verdict, pooled.primary, pooled.value) == ("GAP", False, 0.3)


def test_a_site_without_an_evaluation_is_named_and_the_rest_is_audited() -> None:
    some = counts(900, 100, 900, 100)
    found = audit(study(("a", "b"), SEX), {"a": of_sex(some, some)})
    assert one(found, "accuracy").verdict == "within margin"
    assert ("female", "b", "the site sent no evaluation") in {
        (i.level, i.site, i.reason) for i in found.invisible
    }


def test_noise_in_the_counts_is_in_the_verdict() -> None:
    fine = counts(180, 20, 180, 20), counts(1800, 200, 1800, 200)
    plain, noisy = of({"a": of_sex(*fine)}), of({"a": of_sex(*fine, noise=10.0)})
    before, after = one(plain, "accuracy"), one(noisy, "accuracy")
    assert before.verdict == "within margin"
    assert after.verdict == "inconclusive"
    assert after.gap == before.gap
    assert before.low is not None
    assert after.low is not None
    variance = 0.09 / 400 + 0.09 / 4000 + 2 * 100 * 0.82 * (1 / 400**2 + 1 / 4000**2)
    assert after.low == pytest.approx(-1.959964 * np.sqrt(variance))


def test_a_site_whose_patients_all_have_the_outcome_gives_no_wrong_number() -> None:
    """45 of 46 are ill, as at one of the four heart hospitals."""
    other = of_sex(counts(40, 10, 40, 10), counts(80, 20, 80, 20), counts(120, 30, 120, 30))
    tiny = of_sex(counts(9, 0, 0, 1), counts(30, 1, 0, 5), counts(39, 1, 0, 6))
    found = of({"a": other, "b": other, "c": tiny})
    at = one(found, "false_positive_rate", "c")
    assert (at.value, at.reason) == (None, "female: every patient has the outcome")
    assert one(found, "auroc", "c").verdict == "not measured"
    site = one(found, "false_positive_rate", attribute="site", level="c")
    assert (site.value, site.of) == (1.0, 1)
    assert site.verdict != "within margin"
    for contrast in found.contrasts:
        for name in ("value", "reference_value", "p", "adjusted_p"):
            value = getattr(contrast, name)
            assert value is None or 0 <= value <= 1 or contrast.criterion == "calibration"
        if contrast.low is not None and contrast.high is not None and contrast.gap is not None:
            assert contrast.low <= contrast.gap <= contrast.high


def test_classes_and_labels_are_questions_of_their_own() -> None:
    fine, poor = counts(90, 10, 190, 10), counts(50, 50, 150, 50)

    def of_classes(*tables: BinaryTally) -> MulticlassTally:
        classes = dict(zip(("I", "II", "III"), tables, strict=True))
        return MulticlassTally(n=300, correct=240, confusion=None, classes=classes, log_loss=None)

    there = SiteEvaluation(
        overall=of_classes(fine, fine, fine),
        groups={
            "sex": {"female": of_classes(fine, poor, fine), "male": of_classes(fine, fine, fine)}
        },
    )
    found = of({"a": there}, task={"kind": "multiclass", "label": "stage"})
    verdicts = {c: one(found, "equal_opportunity", outcome=c).verdict for c in ("I", "II", "III")}
    assert verdicts == {"I": "inconclusive", "II": "GAP", "III": "inconclusive"}
    assert one(found, "accuracy").value == 0.8
    assert one(found, "accuracy").outcome == ""

    def of_labels(table: BinaryTally) -> MultilabelTally:
        labels = {"ill": fine, "other": table}
        return MultilabelTally(n=300, all_right=200, labels=labels, log_loss=None)

    there = SiteEvaluation(
        overall=of_labels(fine),
        groups={"sex": {"female": of_labels(poor), "male": of_labels(fine)}},
    )
    found = of({"a": there}, task={"kind": "multilabel", "labels": ("ill", "other")})
    assert one(found, "accuracy", outcome="other").verdict == "GAP"
    assert one(found, "accuracy", outcome="ill").gap == 0


def test_an_outcome_without_calls_is_not_measured_and_says_so() -> None:
    tally = RegressionTally(
        n=50,
        absolute=1.0,
        squared=2.0,
        fourth=5.0,
        outcome=3.0,
        outcome2=10.0,
        predicted=3.0,
        predicted2=10.0,
        product=9.5,
    )
    there = SiteEvaluation(overall=tally, groups={"sex": {"female": tally, "male": tally}})
    outcome = {"kind": "regression", "label": "other_number"}
    found = of({"a": there, "b": there}, task=outcome, model={"name": "linear"})
    (only,) = found.contrasts
    assert (only.attribute, only.level, only.verdict) == ("sex", "female", "not measured")
    assert only.reason.startswith("a gap is measured where the outcome is yes or no")
    assert not found.extremes
    assert not found.invisible


CELLS = st.integers(0, 3) | st.integers(0, 400)
TALLIES = st.builds(
    counts,
    CELLS,
    CELLS,
    CELLS,
    CELLS,
    mean_score=st.none() | st.floats(0, 1),
    auroc=st.none() | st.floats(0, 1),
    auroc_variance=st.none() | st.floats(0, 0.25),
) | st.builds(hidden)


@given(st.lists(st.tuples(TALLIES, TALLIES, TALLIES), min_size=1, max_size=4), st.booleans())
@settings(max_examples=80, deadline=None)
def test_whatever_sites_send_an_audit_comes_out_that_agrees_with_itself(
    sites: list[tuple[BinaryTally, BinaryTally, BinaryTally]], noisy: bool
) -> None:
    found = of(
        {
            name: of_sex(female, male, overall, noise=7.0 if noisy else 0.0)
            for name, (female, male, overall) in zip("abcd", sites, strict=False)
        }
    )
    for contrast in found.contrasts:
        low, gap, high = contrast.low, contrast.gap, contrast.high
        assert (contrast.verdict == "not measured") == (gap is None)
        assert bool(contrast.reason) == (low is None)
        if low is None or high is None or gap is None:
            continue
        assert low - 1e-9 <= gap <= high + 1e-9
        assert contrast.p is not None
        assert contrast.adjusted_p is not None
        assert 0 <= contrast.p <= contrast.adjusted_p <= 1
        if contrast.verdict == "GAP" and contrast.criterion != "calibration":
            assert abs(gap) > contrast.margin
    for extreme in found.extremes:
        assert 0 <= extreme.worst_low <= extreme.worst <= extreme.worst_high <= 1
        assert 0 <= extreme.gap_low <= extreme.gap <= extreme.gap_high <= 1


def test_no_verdict_calls_a_model_fair() -> None:
    found = audit(study(), {site: evaluation(rows) for site, rows in WARDS.items()})
    words = found.model_dump_json().lower()
    assert "fair" not in words
    assert {c.verdict for c in found.contrasts} <= {
        "within margin",
        "GAP",
        "inconclusive",
        "not measured",
    }
