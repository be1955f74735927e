"""Small counts stay hidden from an attacker who solves for them; he succeeds where nobody cares."""

import os
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.attacker import Attacker

from cohortium.common.document import parse
from cohortium.common.metrics.cube import facets
from cohortium.common.metrics.cube_audit import Attacker as Auditor
from cohortium.common.metrics.cube_audit import Shown, Work
from cohortium.common.metrics.cube_view import View, cliques, indicators, view
from cohortium.common.metrics.evaluation import FEDERATED, evaluate
from cohortium.common.metrics.facets import Question
from cohortium.common.metrics.tallies import BinaryTally, Bins, Called, SiteEvaluation
from cohortium.common.study import Study

MINIMUM = 10
DATA = Path(
    os.environ.get("COHORTIUM_TEST_DATA", str(Path(__file__).parents[2] / "../shared/data"))
)
OWN = "own"
NEEDED = ("n", "positives", "correct", "tp", "fp", "tn", "fn", "log_loss", "auroc")

Floats = NDArray[np.float64]
Levels = dict[str, NDArray[np.int16]]


def study(pair: bool = True, curves: bool = True, attributes: tuple[str, ...] = ()) -> Study:
    names = attributes or ("sex", "age")
    columns = {
        "sex": {"kind": "flag", "no_label": "female", "yes_label": "male"},
        "age": {"kind": "number", "low": 0.0, "high": 120.0},
        "ill": {"kind": "flag"},
        "marker": {"kind": "number", "low": 0.0, "high": 1.0},
    }
    return parse(
        {
            "name": "made-up",
            "purpose": {"text": "to be attacked", "duo": "GRU", "legal_basis": "consent"},
            "data": {"dataset": "ward", "features": ["marker"]},
            "data_model": {"name": "ward", "columns": columns},
            "task": {"kind": "binary", "label": "ill", "positive_codes": ["1"]},
            "model": {"name": "logistic"},
            "split": {"test_fraction": 0.5},
            "training": {"rounds": 1, "batches": "full"},
            "privacy": {"mechanism": "none"},
            "evaluation": {"thresholds": [0.5, 0.3], "curves": curves},
            "fairness": {
                "attributes": list(names),
                "bands": {"age": [50.0, 70.0]} if "age" in names else {},
                "intersections": [["sex", "age"]] if pair else [],
            },
            "sites": {"names": ["north"], "min_sites": 1},
        },
        Study,
        "study.toml",
    )


def ward(seed: int, n: int, rare: float = 0.4) -> tuple[dict[str, Floats], Floats, Levels]:
    """Scores of two models, outcomes, and levels of which some are rare."""
    rng = np.random.default_rng(seed)
    ill = (rng.random(n) < rare).astype(float)
    scores = 1 / (1 + np.exp(-rng.normal(2 * ill - 1, 1.5)))
    own = 1 / (1 + np.exp(-rng.normal(ill - 0.5, 1.5)))
    shares = rng.dirichlet([2.0, 1.0, 0.6])
    levels = {
        "sex": rng.choice([0, 1, -1], n, p=[0.6, 0.37, 0.03]).astype(np.int16),
        "age": rng.choice(3, n, p=shares).astype(np.int16),
    }
    return {FEDERATED: scores, OWN: own}, ill, levels


def small_and_narrow(
    asked: Study, shown: SiteEvaluation, raw: SiteEvaluation, minimum: int, other: str = ""
) -> list[str]:
    """Every small count that the attacker places within fewer than `minimum` of others."""
    attacker = Attacker(asked, shown, other)
    truth = {one.of: one.count for one in Attacker(asked, raw, other).seen}
    small = {one.who.tobytes(): one for one in attacker.seen if 0 < (truth[one.of] or 0) < minimum}
    found = []
    for one in small.values():
        low, high = attacker.range(one.who)
        if high - low < minimum - 1e-3:
            found.append(f"{one.of}: {truth[one.of]} in [{low}, {high}]")
    return found


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.sampled_from([40, 120, 300]), pair=st.booleans())
def test_no_small_count_of_a_group_pair_bin_or_comparison_can_be_narrowed_down(
    seed: int, n: int, pair: bool
) -> None:
    asked, (scored, ill, levels) = study(pair), ward(seed, n)
    shown = evaluate(scored, ill, levels, asked, MINIMUM)
    raw = evaluate(scored, ill, levels, study(pair=True), 0)
    if not pair:  # the pair is not shown, and is protected all the same
        nothing = evaluate(
            {k: v[:5] for k, v in scored.items()}, ill[:5], _few(levels), study(), 10
        )
        hidden = {"sex x age": _of(nothing, raw)}
        shown = shown.model_copy(update={"groups": {**shown.groups, **hidden}})
        scored.pop(OWN)
    assert not small_and_narrow(study(), shown, raw, MINIMUM, OWN if pair else "")


def _few(levels: Levels) -> Levels:
    return {name: found[:5] for name, found in levels.items()}


def _of(nothing: SiteEvaluation, raw: SiteEvaluation) -> dict[str, BinaryTally]:
    """A tally that shows nothing for each group of the pair."""
    assert isinstance(nothing.overall, BinaryTally)
    assert nothing.overall.n is None
    return dict.fromkeys(raw.groups["sex x age"], nothing.overall)


def test_whole_numbers_do_not_help_either() -> None:
    scored, ill, levels = ward(3, 90)
    scored.pop(OWN)
    shown = evaluate(scored, ill, levels, study(), MINIMUM)
    raw = evaluate(scored, ill, levels, study(), 0)
    attacker = Attacker(study(), shown)
    truth = {one.of: one.count for one in Attacker(study(), raw).seen}
    small = [one for one in attacker.seen if 0 < (truth[one.of] or 0) < MINIMUM]
    assert len(small) > 50
    for one in small[::7]:
        low, high = attacker.range(one.who, whole=True)
        assert high - low >= MINIMUM - 1e-6


def test_a_careless_table_is_solved() -> None:
    """One group's numbers left out, everything else as it is."""
    scored, ill, levels = ward(5, 200)
    scored.pop(OWN)
    raw = evaluate(scored, ill, levels, study(), 0)
    nobody = BinaryTally.model_validate(dict.fromkeys(NEEDED))
    careless = raw.model_copy(update={"groups": {**raw.groups, "sex": {**raw.groups["sex"]}}})
    careless.groups["sex"]["unknown"] = nobody  # type: ignore[index]
    found = small_and_narrow(study(), careless, raw, MINIMUM)
    assert any(one.startswith("sex: unknown, positives") for one in found)
    attacker = Attacker(study(), careless)
    truth = {one.of: one.count for one in Attacker(study(), raw).seen}
    for one in attacker.seen:
        if one.of.startswith("sex: unknown, n"):
            assert attacker.range(one.who, whole=True) == (truth[one.of], truth[one.of])


def test_total_minus_known_recovers_nothing_in_any_row_or_column() -> None:
    for seed in range(4):
        scored, ill, levels = ward(seed, 150)
        scored.pop(OWN)
        found = evaluate(scored, ill, levels, study(), MINIMUM)
        shown, whole = found.groups, found.overall
        lines = [(whole, list(shown[name].values())) for name in ("sex", "age")]
        for sex, one in shown["sex"].items():
            lines.append((one, [shown["sex x age"][f"{sex} x {age}"] for age in shown["age"]]))
        for age, one in shown["age"].items():
            lines.append((one, [shown["sex x age"][f"{sex} x {age}"] for sex in shown["sex"]]))
        for (total, parts), key in product(lines, ("n", "positives", "correct", "tp", "fn")):
            values = [getattr(part, key) for part in parts]
            if getattr(total, key) is not None and None in values:
                rest = getattr(total, key) - sum(value for value in values if value is not None)
                assert rest == 0 or rest >= MINIMUM


def test_two_thresholds_with_few_patients_between_them_are_not_both_shown() -> None:
    ill = np.repeat([1.0, 0.0], [44, 60])
    scores = np.repeat([0.9, 0.4, 0.1, 0.9, 0.4, 0.1], [20, 4, 20, 20, 20, 20])
    asked = study(pair=False, curves=False, attributes=("sex",))
    sex = {"sex": np.zeros(104, np.int16)}
    shown = evaluate({FEDERATED: scores}, ill, sex, asked, MINIMUM).overall
    assert isinstance(shown, BinaryTally)
    assert (shown.tp, shown.further) == (20, ())
    scores[:20], scores[20:24] = 0.9, 0.1
    shown = evaluate({FEDERATED: scores}, ill, sex, asked, MINIMUM).overall
    assert isinstance(shown, BinaryTally)
    assert shown.further == (Called(tp=20, fp=40),)


def test_a_threshold_beside_an_edge_of_a_bin_shows_nobody_between_them() -> None:
    """Above .3 and above .25 (an edge of four bins) are 3 patients less or more."""
    rng = np.random.default_rng(0)
    ill = np.tile([1.0, 0.0], 300)
    scores = rng.choice([0.1, 0.35, 0.6, 0.9], 600)
    scores[:6] = 0.28
    asked = study(pair=False, attributes=("sex",))
    shown = evaluate({FEDERATED: scores}, ill, {"sex": np.zeros(600, np.int16)}, asked, MINIMUM)
    assert isinstance(shown.overall, BinaryTally)
    bins, further = shown.overall.bins, shown.overall.further
    assert not (further and isinstance(bins, Bins) and len(bins.n) > 2)


def test_a_cell_that_is_empty_everywhere_does_not_solve_for_the_others() -> None:
    """Nobody with the outcome is called: of level 1, correct (10) would give fp = 12 - 10 = 2."""
    cells = [(0, 0, 10, 0), (0, 2, 10, 10), (0, 20, 20, 20)]  # tp, fp, tn, fn
    asked = study(pair=False, curves=False, attributes=("age",))
    kinds = ((0.9, 1.0), (0.9, 0.0), (0.2, 0.0), (0.2, 1.0))
    rows = [
        (level, *kind)
        for level, counts in enumerate(cells)
        for kind, count in zip(kinds, counts, strict=True)
        for _ in range(count)
    ]
    age, scores, ill = np.array(rows).T
    shown = evaluate({FEDERATED: scores}, ill, {"age": age.astype(np.int16)}, asked, MINIMUM)
    assert isinstance(shown.overall, BinaryTally)
    assert (shown.overall.tp, shown.overall.fp) == (0, 22)
    young, middle, _ = shown.groups["age"].values()
    assert isinstance(young, BinaryTally)
    assert isinstance(middle, BinaryTally)
    assert (middle.fp, middle.correct) == (None, None)


def test_linked_tables_of_two_attributes_say_as_much_as_the_whole_cube() -> None:
    """Bounds from the audit's view against those over all combinations of four attributes."""
    rng = np.random.default_rng(1)
    n, names = 160, ("a", "b", "c", "d")
    levels = {name: rng.choice(3, n, p=[0.5, 0.3, 0.2]) for name in names}
    attributes = {name: {str(k): found == k for k in range(3)} for name, found in levels.items()}
    micro = rng.integers(0, 3, n)
    question = Question(micro, 3, facets({"n": [[0, 1, 2]], "parts": [[0], [1], [2]]}))
    for pairs in ([], [("a", "b"), ("b", "c")]):
        for pair in (("a", "c"), ("a", "d")):
            small = _limits(view(cliques(pair, names, pairs), [question], attributes, pairs))
            whole = _limits(
                view([(*pair, *(x for x in names if x not in pair))], [question], attributes, pairs)
            )
            np.testing.assert_allclose(small, whole, atol=1e-6)


def _limits(looked_at: View) -> list[tuple[float, float]]:
    """Of the second part, in each intersection of the first two attributes."""
    cells = indicators([frozenset({k}) for k in range(3)], 3)
    shown = [
        Shown((group, "parts"), clique, rows, cells)
        for group, (clique, rows) in looked_at.groups.items()
    ]
    auditor = Auditor(looked_at.tables, looked_at.links, looked_at.watched, 10, Work())
    groups = looked_at.watched[0].groups
    pairs = [place for place, who in enumerate(groups) if who.sum() * 9 == len(who)]
    assert len(pairs) == 9
    return [auditor.limits(shown, (0, place, 2)) for place in pairs]


def test_hiding_is_the_same_every_time() -> None:
    scored, ill, levels = ward(11, 200)
    first = evaluate(scored, ill, levels, study(), MINIMUM)
    assert evaluate(scored, ill, levels, study(), MINIMUM) == first


def test_a_cube_too_large_to_check_shows_nothing_by_group_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cohortium.common.metrics.cube_audit.MOST_UNKNOWNS", 60)
    scored, ill, levels = ward(2, 400)
    shown = evaluate(scored, ill, levels, study(), MINIMUM)
    assert isinstance(shown.overall, BinaryTally)
    assert shown.overall.n == 400
    for table in shown.groups.values():
        for one in table.values():
            assert isinstance(one, BinaryTally)
            assert (one.n, one.auroc, one.bins) == (None, None, None)
            assert "too many" in one.reason


def lung() -> list[tuple[Floats, Floats, Levels]]:
    """Of each institution: risk by a public rule, death within a year, sex and age band."""
    rows = np.genfromtxt(DATA / "survival" / "lung.csv", delimiter=",", names=True)
    rows = rows[~np.isnan(rows["inst"]) & ((rows["time"] > 365) | (rows["status"] == 2))]
    dead = (rows["time"] <= 365).astype(float)
    risk = 0.03 * (rows["age"] - 62) - 0.6 * (rows["sex"] - 1) + 0.5 * np.nan_to_num(rows["phecog"])
    scores = 1 / (1 + np.exp(-risk))
    sites = []
    for institution in np.unique(rows["inst"]):
        who = rows["inst"] == institution
        levels = {
            "sex": (rows["sex"][who] - 1).astype(np.int16),
            "age": np.digitize(rows["age"][who], [50, 70]).astype(np.int16),
        }
        sites.append((scores[who], dead[who], levels))
    return sites


def heart(name: str) -> tuple[Floats, Floats, Levels]:
    """Of one hospital: risk by a public rule, heart disease, sex and age band."""
    text = (DATA / "heart" / f"processed.{name}.data").read_text().replace("?", "nan")
    rows = np.array([line.split(",") for line in text.split()], float)
    risk = 0.05 * (rows[:, 0] - 55) + 0.8 * (rows[:, 1] - 1) + 0.9 * np.nan_to_num(rows[:, 8])
    age = np.digitize(rows[:, 0], [50, 70]).astype(np.int16)
    sick = (rows[:, 13] > 0).astype(float)
    return 1 / (1 + np.exp(-risk)), sick, {"sex": rows[:, 1].astype(np.int16), "age": age}


@pytest.mark.skipif(not (DATA / "heart").is_dir(), reason="the hospitals' files are not here")
@pytest.mark.parametrize("name", ["cleveland", "hungarian", "switzerland", "va"])
def test_four_heart_hospitals_give_no_small_count_away(name: str) -> None:
    """Switzerland has 115 of 123 with the disease, Virginia 6 women."""
    scores, sick, levels = heart(name)
    shown = evaluate({FEDERATED: scores}, sick, levels, study(), MINIMUM)
    raw = evaluate({FEDERATED: scores}, sick, levels, study(), 0)
    assert not small_and_narrow(study(), shown, raw, MINIMUM)
    assert isinstance(shown.overall, BinaryTally)
    if name == "switzerland":
        assert (shown.overall.n, shown.overall.positives, shown.overall.auroc) == (123, None, None)


@pytest.mark.skipif(not (DATA / "survival" / "lung.csv").exists(), reason="lung.csv is not here")
def test_eighteen_institutions_with_few_patients_give_no_small_count_away() -> None:
    sites = lung()
    assert len(sites) == 18
    assert sum(len(dead) < 5 for _, dead, _ in sites) >= 3
    for scores, dead, levels in sites:
        shown = evaluate({FEDERATED: scores}, dead, levels, study(), MINIMUM)
        raw = evaluate({FEDERATED: scores}, dead, levels, study(), 0)
        assert not small_and_narrow(study(), shown, raw, MINIMUM)
