"""SVG as text: elements with escaped attributes, and what every figure of a report shares.

Colours and strokes come from the page's style sheet by class; a figure decides where things go.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from markupsafe import Markup, escape

Coordinate = float | int | str


@dataclass(frozen=True)
class Figure:
    """A drawing, what it shows, how to read it, and the table with the same numbers."""

    title: str
    drawing: Markup
    table: str
    note: str = ""
    wide: bool = False


def element(name: str, content: str = "", **attributes: Coordinate) -> Markup:
    """One element; `class_` and `text_anchor` become `class` and `text-anchor`."""
    written = Markup("").join(
        Markup(' {}="{}"').format(Markup(key.rstrip("_").replace("_", "-")), _number(value))
        for key, value in attributes.items()
    )
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), written, escape(content))


def drawing(parts: Iterable[Markup], width: float, height: float, label: str) -> Markup:
    """The outermost element; `label` is what a screen reader says of it."""
    body = Markup("\n").join(parts)
    frame = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">\n{}\n</svg>')
    return frame.format(_number(width), _number(height), label, body)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def path(points: Iterable[tuple[float, float]], class_: str) -> Markup:
    """Straight lines from point to point."""
    return element("path", d="M" + " L".join(f"{_number(x)} {_number(y)}" for x, y in points),
                   class_=class_)  # fmt: skip


def words(x: float, y: float, text: str, anchor: str = "start", class_: str = "") -> Markup:
    """Text that starts, ends or is centred (`middle`) at x, with its base line at y."""
    more = {"class_": class_} if class_ else {}
    return element("text", text, x=x, y=y, text_anchor=anchor, **more)


def rectangle(x: float, y: float, width: float, height: float, class_: str) -> Markup:
    return element("rect", x=x, y=y, width=width, height=height, class_=class_)


def shortened(text: str, longest: int) -> str:
    """At most so many characters, the last a dot-dot-dot where some were cut."""
    return text if len(text) <= longest else text[: longest - 1].rstrip() + "…"


def _number(value: Coordinate) -> str:
    if isinstance(value, str):
        return value
    text = f"{value:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text
