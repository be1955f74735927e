"""What the model goes by: columns by how much they add, letters as a logo, pixels as a map."""

from collections.abc import Iterator, Sequence

from markupsafe import Markup

from cohortium.common.explaining.document import Rows, Told
from cohortium.common.explanation import Method
from cohortium.server.reports import svg
from cohortium.server.reports.report_data import ReportData
from cohortium.server.reports.svg import Figure
from cohortium.server.reports.table import Cell, Column, Table, text

WORDS: dict[Method, str] = {
    "integrated_gradients": "integrated gradients",
    "gradient_shap": "gradient SHAP",
    "kernel_shap": "kernel SHAP",
    "lime": "LIME",
    "grad_cam": "Grad-CAM",
    "attention": "attention",
}
SHOWN = 20  # columns
LINE, LABEL, BAR = 20.0, 150.0, 160.0
PLACE, TALL, CAP = 13.0, 90.0, 7.2  # of a logo; height of a capital letter of size 10
ACROSS = 60  # places in a line of a logo
CELLS, PIXEL = 32, 9.0  # of a map: at most so many a side


def explained_figures(explained: Sequence[Told], letters: str) -> list[Figure]:
    """All figures of all methods.

    Args:
        letters: of the sequence, in the order of a motif's columns.
    """
    return [figure for told in explained for figure in _figures(told, letters)]


def explained_table(data: ReportData) -> Table:
    """Every column that was told, by method."""
    found = data.explained.told if data.explained else ()
    return Table(
        "explained",
        "How much each column moves the model: mean over held-out patients, each site the same",
        (
            Column("Method", ("method",)),
            Column("Column", ("column",)),
            Column("Size", ("size",), number=True),
            Column("With its sign", ("signed",), number=True),
        ),
        tuple(
            (
                text(WORDS[one.method]),
                text(name),
                Cell((mean.size,), f"{mean.size:.3g}"),
                Cell((mean.signed,), f"{mean.signed:+.3g}"),
            )
            for one in found
            for name, mean in one.columns.items()
        ),
    )


def _figures(told: Told, letters: str) -> Iterator[Figure]:
    how = WORDS[told.method]
    if len(told.columns) > 1:
        yield _bars(told, how)
    for name, rows in told.motifs.items():
        title = f"What speaks for “{name}”, letter by letter ({how})"
        yield Figure(title, _logo(rows, letters, title), "explained", wide=True)
    for name, rows in told.saliency.items():
        title = f"Where the model looks: {name} ({how})"
        note = "mean over patients; the fuller a cell, the more"
        yield Figure(title, _map(rows, title), "explained", note)


def _bars(told: Told, how: str) -> Figure:
    """By the mean size of what a column adds; filled to the side to which it adds on average."""
    those = list(told.columns.items())[:SHOWN]
    largest = max(mean.size for _, mean in those) or 1.0
    parts = []
    for number, (name, mean) in enumerate(those):
        top = number * LINE
        parts.append(svg.words(LABEL - 8, top + 14, svg.shortened(name, 22), "end"))
        kind = "adds" if mean.signed >= 0 else "takes"
        width = max(BAR * mean.size / largest, 1.0)
        parts.append(svg.rectangle(LABEL, top + 3, width, LINE - 6, kind))
        parts.append(svg.words(LABEL + width + 5, top + 14, f"{mean.size:.3g}"))
    title = f"How much each column moves the model ({how})"
    label = f"{title}; the numbers are in the table below"
    note = f"the {len(those)} largest of {len(told.columns)}"
    height = LINE * len(those) + 4
    return Figure(title, svg.drawing(parts, LABEL + BAR + 60, height, label), "explained", note)


def _logo(rows: Rows, letters: str, label: str) -> Markup:
    """Above the line what speaks for the class, below it what speaks against it."""
    stacks = [
        [(letter, value) for letter, value in zip(letters, row, strict=True) if value]
        for row in rows
    ]
    ups = [sum(value for _, value in stack if value > 0) for stack in stacks]
    downs = [-sum(value for _, value in stack if value < 0) for stack in stacks]
    scale = TALL / (max(*ups, *downs, 0.0) or 1.0)
    above, below = max(ups, default=0.0) * scale, max(downs, default=0.0) * scale
    tall = above + below + 26
    parts = []
    for place, stack in enumerate(stacks):
        x, line = (place % ACROSS) * PLACE, (place // ACROSS) * tall + above + 4
        for sign in (1, -1):
            edge = 0.0
            for letter, value in sorted(stack, key=lambda one: abs(one[1])):
                if value * sign > 0:
                    height = abs(value) * scale
                    foot = line - edge if sign > 0 else line + edge + height
                    parts.append(_letter(letter, x, foot, height, against=sign < 0))
                    edge += height
        if place % 5 == 4 or not place:
            foot = (place // ACROSS + 1) * tall - 4
            parts.append(svg.words(x + PLACE / 2, foot, str(place + 1), "middle", "soft"))
    lines = -(-len(stacks) // ACROSS)
    width = PLACE * min(len(stacks), ACROSS)
    parts += [
        svg.line(0, at * tall + above + 4, width, at * tall + above + 4, "axis")
        for at in range(lines)
    ]
    return svg.drawing(parts, width, lines * tall, f"{label}; the numbers are in report.json")


def _letter(letter: str, x: float, foot: float, height: float, against: bool) -> Markup:
    """One glyph, stretched to its height."""
    kind = f"letter letter-{letter if letter in 'ACGTU' else 'other'}"
    return svg.element(
        "text",
        letter,
        transform=f"translate({x + PLACE / 2:.1f} {foot:.1f}) scale(1.5 {height / CAP:.3f})",
        text_anchor="middle",
        class_=f"{kind} against" if against else kind,
    )


def _map(rows: Rows, label: str) -> Markup:
    """Cells by the size of their mean, those of a large image put together."""
    step = -(-max(len(rows), len(rows[0])) // CELLS)
    cells = [
        [_mean(rows, y, x, step) for x in range(0, len(rows[0]), step)]
        for y in range(0, len(rows), step)
    ]
    largest = max(abs(cell) for row in cells for cell in row) or 1.0
    parts = [
        svg.element(
            "rect",
            x=x * PIXEL,
            y=y * PIXEL,
            width=PIXEL,
            height=PIXEL,
            class_="adds" if cell >= 0 else "takes",
            fill_opacity=f"{abs(cell) / largest:.2f}",
        )
        for y, row in enumerate(cells)
        for x, cell in enumerate(row)
    ]
    return svg.drawing(parts, PIXEL * len(cells[0]), PIXEL * len(cells), label)


def _mean(rows: Rows, y: int, x: int, step: int) -> float:
    those = [cell or 0.0 for row in rows[y : y + step] for cell in row[x : x + step]]
    return sum(those) / len(those)
