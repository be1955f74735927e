"""Figures of the report: where a mark lies, and what must not be drawn."""

import xml.etree.ElementTree as ElementTree

import pytest
from tests.server.test_report import AUROC, SENSITIVITY

from cohortium.common.fairness.verdicts import Contrast
from cohortium.common.metrics.performance import Estimate
from cohortium.server.reports.decision import decision_figure
from cohortium.server.reports.findings import NetBenefit
from cohortium.server.reports.forest import by_site
from cohortium.server.reports.margins import gap, margin_figures, verdict
from cohortium.server.reports.rounds_chart import rounds_chart
from cohortium.server.reports.scale import Scale, levels, ratios, thinned
from cohortium.server.reports.strip import LEFT, RIGHT, Axis, Row, strip
from cohortium.server.reports.svg import Figure


def drawn(figure: Figure | None) -> ElementTree.Element:
    assert figure is not None
    return ElementTree.fromstring(figure.drawing)


def marks(svg: ElementTree.Element, class_: str) -> list[dict[str, str]]:
    return [dict(one.attrib) for one in svg.iter() if one.attrib.get("class") == class_]


def contrast(**values: object) -> Contrast:
    given: dict[str, object] = {
        "attribute": "sex",
        "level": "female",
        "reference": "male",
        "criterion": "equal_opportunity",
        "site": None,
        "primary": True,
        "margin": 0.05,
        "gap": -0.1,
        "low": -0.2,
        "high": -0.06,
        "verdict": "GAP",
        **values,
    }
    return Contrast.model_validate(given)


def test_a_site_that_hides_a_measure_has_a_row_without_a_mark() -> None:
    svg = drawn(by_site(SENSITIVITY))
    values = [one.text for one in svg.iter("text") if one.attrib.get("class") == "value"]
    assert values[1] == "not shown"
    assert len(marks(svg, "dot")) == 3
    assert len(marks(svg, "square")) == len(marks(svg, "diamond")) == 1


def test_a_mark_lies_where_its_value_is() -> None:
    svg = drawn(by_site(SENSITIVITY))
    labels = [one.text for one in svg.iter("text") if "class" not in one.attrib]
    assert labels == ["40%", "60%", "80%", "100%"]
    first = marks(svg, "dot")[0]
    assert float(first["cx"]) == pytest.approx(LEFT + (RIGHT - LEFT) * 2 / 3, abs=0.1)
    whisker = marks(svg, "span")[0]
    assert float(whisker["x2"]) == pytest.approx(LEFT + (RIGHT - LEFT) * 5 / 6, abs=0.1)


def test_an_interval_wider_than_the_figure_is_cut_and_says_so() -> None:
    svg = drawn(by_site(SENSITIVITY))
    far = marks(svg, "far")[0]
    assert float(far["x1"]) == LEFT
    assert float(far["x2"]) < RIGHT
    assert len(marks(svg, "arrow")) == 1


def test_a_measure_that_nobody_shows_makes_no_empty_figure() -> None:
    nobody = AUROC.model_copy(update={"sites": {"northgate": Estimate(reason="no patients")}})
    assert by_site(nobody) is None
    alone = drawn(by_site(AUROC))
    assert len(marks(alone, "dot")) == 1
    assert marks(alone, "span") == []


def test_a_study_of_hundreds_of_sites_does_not_draw_them_all() -> None:
    sites = {f"site{i}": Estimate(value=0.5, low=0.4, high=0.6, of=50) for i in range(300)}
    svg = drawn(by_site(SENSITIVITY.model_copy(update={"sites": sites})))
    assert len(marks(svg, "dot")) == 30
    assert any("270 more sites" in (one.text or "") for one in svg.iter("text"))


@pytest.mark.parametrize(
    ("verdict_", "class_"),
    [("within margin", "dot"), ("GAP", "triangle"), ("inconclusive", "hollow")],
)
def test_each_verdict_has_a_shape_and_a_word(verdict_: str, class_: str) -> None:
    svg = drawn(margin_figures([contrast(verdict=verdict_)])[0])
    assert len(marks(svg, class_)) == 1
    words = [one.text for one in svg.iter("text")]
    assert verdict_ in words
    assert "−10.0 points (−20.0 to −6.0)" in words


def test_the_band_of_a_margin_lies_on_both_sides_of_no_gap() -> None:
    svg = drawn(margin_figures([contrast()])[0])
    band, zero = marks(svg, "band")[0], marks(svg, "zero")[0]
    middle = float(band["x"]) + float(band["width"]) / 2
    assert middle == pytest.approx(float(zero["x1"]), abs=0.1)
    assert float(marks(svg, "span")[0]["x2"]) < float(band["x"])


def test_a_ratio_is_drawn_by_ratios_so_that_twice_and_half_are_equally_far() -> None:
    svg = drawn(
        margin_figures([contrast(criterion="calibration", margin=1.25, gap=2.0, low=0.5, high=3)])[
            0
        ]
    )
    zero, whisker = marks(svg, "zero")[0], marks(svg, "span")[0]
    place = (float(marks(svg, "triangle")[0]["d"].split()[0][1:]) + 6) - float(zero["x1"])
    assert float(zero["x1"]) - float(whisker["x1"]) == pytest.approx(place, abs=0.2)


def test_what_was_not_measured_has_no_mark_and_says_why() -> None:
    nothing = {"gap": None, "low": None, "high": None, "verdict": "not measured"}
    hidden = contrast(level="other", reason="no site shows both groups", **nothing)
    assert margin_figures([hidden]) == []
    svg = drawn(margin_figures([contrast(), hidden])[0])
    assert len(marks(svg, "triangle")) == 1
    assert "no site shows both groups" in [one.text for one in svg.iter("text")]


def test_an_inconclusive_verdict_says_what_could_have_been_seen() -> None:
    assert verdict(contrast(verdict="inconclusive", detectable=0.065)) == (
        "inconclusive (could detect ≥ 6.5 points)"
    )
    assert gap(contrast(criterion="auroc", gap=0.0, low=-0.01, high=0.01)) == (
        "0.000 (−0.010 to +0.010)"
    )


def test_the_line_of_treating_all_ends_where_it_leaves_the_figure() -> None:
    points = [
        NetBenefit(threshold=t, sites=2, n=100, value=v, low=v - 0.05, high=v + 0.05, treat_all=a)
        for t, v, a in ((0.25, 0.3, 0.2), (0.5, 0.2, -0.2), (0.75, 0.1, -1.4))
    ]
    svg = drawn(decision_figure(points))
    line = next(one.attrib["d"] for one in svg.iter() if one.attrib.get("class") == "everybody")
    assert line.count("L") == 1 or line.count("L") == 2
    assert len(marks(svg, "square")) == 3
    assert decision_figure(points[:1]) is None


def test_a_chart_of_one_round_or_of_equal_values_divides_by_no_zero() -> None:
    one = drawn(rounds_chart("Accuracy", [(1, 0.5)], str, None))
    flat = drawn(rounds_chart("Loss", [(1, 0.0), (2, 0.0)], str, 0.0))
    assert [t.text for t in one.iter("text") if t.text == "1"] == ["1"]
    assert len({dot["cy"] for dot in marks(flat, "dot")}) == 1
    assert rounds_chart("Loss", [], str, 0.5) is None


def test_the_ends_of_a_chart_lie_on_its_levels() -> None:
    svg = drawn(rounds_chart("A", [(1, 0.5), (11, 0.8)], lambda level: f"{level:.1f}", None))
    words = [one.text for one in svg.iter("text")]
    assert words[:4] == ["0.5", "0.6", "0.7", "0.8"]
    assert words[4:10] == ["1", "3", "5", "7", "9", "11"]


def test_an_axis_has_round_marks_that_enclose_everything_and_not_too_many() -> None:
    assert levels(0.31, 0.78) == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert ratios([0.71, 1.9]) == [0.67, 0.8, 1, 1.25, 1.5, 2]
    assert ratios([]) == [0.8, 1, 1.25]
    assert thinned([0.5, 0.67, 0.8, 1, 1.25, 1.5, 2], keep=1) == [0.67, 1, 1.5]
    assert Scale(0, 10, 100, 200).at(25) == 200
    assert Scale(0, 10, 100, 200).beyond(10.1)


def test_a_long_name_is_cut_and_its_numbers_are_not() -> None:
    row = Row(left="a" * 80, right="81.2 % (70.1 to 88.2 %)", mark="dot", at=0.5)
    svg = ElementTree.fromstring(strip([row], Axis([0.0, 1.0], str), "x"))
    left, right = (one.text for one in svg.iter("text") if "class" in one.attrib)
    assert left is not None
    assert left.endswith("…")
    assert right == "81.2 % (70.1 to 88.2 %)"
