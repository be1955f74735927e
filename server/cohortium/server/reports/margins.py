"""Gaps between groups against the study's margins: one strip for each criterion.

The band is the margin, the bar the 95% interval of the gap. Each verdict has a shape and a word.
"""

from collections.abc import Iterator, Sequence

from cohortium.common.fairness.verdicts import Contrast
from cohortium.server.reports import measures, numbers
from cohortium.server.reports.scale import levels, ratios
from cohortium.server.reports.strip import Axis, Mark, Row, strip
from cohortium.server.reports.svg import Figure

SHAPES: dict[str, Mark] = {
    "within margin": "dot",
    "GAP": "triangle",
    "inconclusive": "hollow",
    "not measured": "none",
}
MOST_ROWS = 40


def margin_figures(contrasts: Sequence[Contrast]) -> list[Figure]:
    """One figure for each criterion with a contrast that was measured."""
    criteria = dict.fromkeys(contrast.criterion for contrast in contrasts)
    figures = (_figure(criterion, contrasts) for criterion in criteria)
    return [figure for figure in figures if figure]


def gap(contrast: Contrast) -> str:
    """`−3.0 points (−7.5 to 1.5)`, or for a ratio `0.91 times (0.80 to 1.04)`."""
    if contrast.gap is None:
        return "not measured" if contrast.verdict == "not measured" else "numbers not shown"
    if contrast.criterion == "calibration":
        text, ends = f"{contrast.gap:.2f} times", (contrast.low, contrast.high)
        written = [f"{end:.2f}" for end in ends if end is not None]
    elif contrast.criterion in measures.SHARE_CRITERIA:
        text = f"{numbers.points(contrast.gap)} points"
        written = [numbers.points(e) for e in (contrast.low, contrast.high) if e is not None]
    else:
        text = numbers.signed(contrast.gap, 3)
        written = [numbers.signed(e, 3) for e in (contrast.low, contrast.high) if e is not None]
    return f"{text} ({' to '.join(written)})" if len(written) == 2 else text


def size(contrast: Contrast, value: float) -> str:
    """A margin or a detectable gap in the units of its criterion."""
    if contrast.criterion == "calibration":
        return f"{value:.2f} times"
    if contrast.criterion in measures.SHARE_CRITERIA:
        return f"{100 * value:.1f} points"
    return f"{value:.3f}"


def verdict(contrast: Contrast) -> str:
    """The verdict, and for an inconclusive one what could have been seen."""
    if contrast.verdict == "inconclusive" and contrast.detectable is not None:
        return f"inconclusive (could detect ≥ {size(contrast, contrast.detectable)})"
    return contrast.verdict


def _figure(criterion: str, contrasts: Sequence[Contrast]) -> Figure | None:
    own = [contrast for contrast in contrasts if contrast.criterion == criterion]
    if all(contrast.gap is None for contrast in own):
        return None
    title = measures.CRITERIA.get(criterion, criterion)
    rows = list(_rows(own[:MOST_ROWS]))
    if len(own) > MOST_ROWS:
        rows.append(Row(left=f"and {len(own) - MOST_ROWS} more", right="in the table"))
    label = f"Gaps against the margin, {title}; the numbers are in the table below"
    drawn = strip(rows, _ratio_axis(own) if criterion == "calibration" else _axis(own), label)
    return Figure(title, drawn, "gaps", f"margin {size(own[0], own[0].margin)}")


def _rows(contrasts: Sequence[Contrast]) -> Iterator[Row]:
    before = None
    for contrast in contrasts:
        head = f"{contrast.attribute}, against {contrast.reference}"
        if head != before:
            before = head
            yield Row(heading=head)
        known = contrast.low is not None and contrast.high is not None
        parts = (contrast.level, contrast.outcome, contrast.site)
        where = ", ".join(part for part in parts if part)
        yield Row(
            left=where,
            right=contrast.verdict,
            note=gap(contrast) if contrast.gap is not None else contrast.reason,
            mark=SHAPES[contrast.verdict],
            at=contrast.gap,
            span=(contrast.low or 0.0, contrast.high or 0.0) if known else None,
        )


def _ends(contrasts: Sequence[Contrast]) -> list[float]:
    return [e for c in contrasts for e in (c.gap, c.low, c.high) if e is not None]


def _axis(contrasts: Sequence[Contrast]) -> Axis:
    margin = max(contrast.margin for contrast in contrasts)
    ends = [max(-1.0, min(1.0, end)) for end in _ends(contrasts)]
    marks = [round(mark, 6) for mark in levels(min(*ends, -margin), max(*ends, margin))]
    shares = contrasts[0].criterion in measures.SHARE_CRITERIA

    def write(mark: float) -> str:
        return numbers.signed(100 * mark, 0) if shares else numbers.signed(mark, 2)

    return Axis(marks=marks, write=write, band=(-margin, margin), line=0.0)


def _ratio_axis(contrasts: Sequence[Contrast]) -> Axis:
    margin = max(contrast.margin for contrast in contrasts)
    return Axis(
        marks=ratios([*_ends(contrasts), margin, 1 / margin]),
        write=lambda ratio: f"{ratio:g}",
        log=True,
        band=(1 / margin, margin),
        line=1.0,
    )
