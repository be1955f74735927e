"""The report as a PDF for those who file paper: the first page in words, then every table.

Set in Helvetica, which every reader has: a character outside Windows-1252 becomes a question mark.
The page in HTML is the complete one.
"""

from html import escape
from io import BytesIO
from typing import Any

from cohortium.common.audit.evidence import Evidence
from cohortium.common.audit.report import budget, egress, record, signatures, studies
from cohortium.common.audit.report.contents import AUDIENCES, Section, scope, sections
from cohortium.common.audit.report.first_page import LIMITS, tiles
from cohortium.common.audit.report.table import Table, shown_cells
from cohortium.common.errors import UsageError

PDF_FILE = "report/report.pdf"
WIDTH_MM, MARGIN_MM = 297.0, 14.0
LEAST_MM, MOST_LETTERS = 11.0, 60


def require_pdf() -> None:
    """Raise UsageError where the optional package is missing."""
    try:
        import reportlab  # noqa: F401
    except ModuleNotFoundError:
        raise UsageError(
            "--pdf needs the optional package reportlab: pip install 'cohortium[pdf]'; the report "
            "in HTML can be printed without it"
        ) from None


def pdf_files(evidence: Evidence) -> dict[str, bytes]:
    """`report/report.pdf`; the same bytes for the same evidence and version of reportlab."""
    from reportlab.lib.pagesizes import A4, landscape
    from reportlab.lib.styles import ParagraphStyle
    from reportlab.lib.units import mm
    from reportlab.platypus import PageBreak, Paragraph, SimpleDocTemplate, Spacer

    plain = ParagraphStyle("plain", fontName="Helvetica", fontSize=8, leading=10.5)
    title = ParagraphStyle("title", plain, fontName="Helvetica-Bold", fontSize=15, leading=19)
    heading = ParagraphStyle("heading", plain, fontName="Helvetica-Bold", fontSize=11, leading=16)

    def words(text: str, style: ParagraphStyle = plain) -> Any:
        return Paragraph(escape(_printable(text)), style)

    def table(one: Table) -> list[Any]:
        name = ParagraphStyle("name", plain, fontName="Helvetica-Bold", spaceBefore=5)
        rows = [_grid(one, plain)] if one.rows else [words(one.empty)]
        return [words(one.title, name), *rows, *([words(one.note)] if one.note else [])]

    def section(one: Section) -> list[Any]:
        parts = [part for each in one.tables for part in table(each)]
        return [words(one.title, heading), *parts, *map(words, one.words), Spacer(1, 3 * mm)]

    story: list[Any] = [
        words(f"Evidence {AUDIENCES[evidence.audience]}"),
        words(f"{evidence.node}: what was done, who agreed, what it cost", title),
        words(scope(evidence)),
        Spacer(1, 2 * mm),
        *(words(f"{one.title}: {one.big}, {one.why}") for one in tiles(evidence)),
    ]
    for one in _first(evidence):
        story += table(one)
    story.append(words("What this does not prove", heading))
    story += [words(f"{what} {why}") for what, why in LIMITS.items()]
    story.append(PageBreak())
    for part in sections(evidence):
        story += section(part)
    out = BytesIO()
    document = SimpleDocTemplate(
        out,
        pagesize=landscape(A4),
        invariant=1,
        title=f"{evidence.node}: evidence",
        author=_printable(evidence.officer),
        **dict.fromkeys(("leftMargin", "rightMargin", "topMargin", "bottomMargin"), MARGIN_MM * mm),
    )
    document.build(story)
    return {PDF_FILE: out.getvalue()}


def _first(evidence: Evidence) -> tuple[Table, ...]:
    """The tables of the first page."""
    return (
        signatures.in_short(signatures.decisions(evidence)),
        egress.summary(evidence, egress.messages(evidence)),
        budget.budget(budget.accounts(evidence)),
        studies.open_flags(evidence),
        record.reviews(evidence),
        record.witnesses(evidence),
    )


def _grid(one: Table, plain: Any) -> Any:
    from reportlab.lib.colors import HexColor
    from reportlab.lib.styles import ParagraphStyle
    from reportlab.lib.units import mm
    from reportlab.platypus import LongTable, Paragraph

    small = ParagraphStyle("small", plain, fontSize=6.5, leading=8, splitLongWords=1)
    bold = ParagraphStyle("bold", small, fontName="Helvetica-Bold")
    header, *rows = shown_cells(one)
    widths = [w * mm for w in _widths([header, *rows])]
    cells = [
        [Paragraph(escape(_printable(cell)), bold if place == 0 else small) for cell in row]
        for place, row in enumerate([header, *rows])
    ]
    rule = HexColor("#999999")
    return LongTable(
        cells,
        colWidths=widths,
        repeatRows=1,
        hAlign="LEFT",
        style=[
            ("LINEBELOW", (0, 0), (-1, -1), 0.3, rule),
            ("VALIGN", (0, 0), (-1, -1), "TOP"),
            ("LEFTPADDING", (0, 0), (-1, -1), 0),
            ("RIGHTPADDING", (0, 0), (-1, -1), 4),
            ("TOPPADDING", (0, 0), (-1, -1), 1),
            ("BOTTOMPADDING", (0, 0), (-1, -1), 1),
        ],
    )


def _widths(rows: list[tuple[str, ...]]) -> list[float]:
    """Millimetres for each column: by its longest cell, within limits, filling the page at most."""
    letters = [min(MOST_LETTERS, max(len(row[i]) for row in rows)) for i in range(len(rows[0]))]
    room = WIDTH_MM - 2 * MARGIN_MM
    wanted = [max(LEAST_MM, 1.35 * count + 3) for count in letters]
    scale = min(1.0, room / sum(wanted))
    return [width * scale for width in wanted]


def _printable(text: str) -> str:
    """What Helvetica has; Greek letters that we use are spelt out."""
    spelt = text.replace("ε", "epsilon").replace("δ", "delta")
    return spelt.encode("cp1252", "replace").decode("cp1252")
