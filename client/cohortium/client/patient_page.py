"""Why a model says what it says of one patient, as a page for this site alone.

One file: no script, nothing from elsewhere, so that it can be opened where there is no network.
"""

import base64
import io
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from cohortium.client.explaining import Reasons
from cohortium.common.audit.report.markup import Html, element, join
from cohortium.common.errors import UsageError
from cohortium.common.layout import Block
from cohortium.common.study import Study
from cohortium.common.wide_columns import SequenceColumn

Floats = NDArray[np.float32]

SHOWN = 40  # columns or atoms
SIDE = 420  # pixels of the longer side of an image on the page
LOOKS = ("grad_cam", "attention")  # never negative, and no sum of parts
VEIL = 0.75  # how much of a pixel the strongest colour covers
ADDS, TAKES = (213, 94, 0), (0, 114, 178)  # told apart by the colour-blind (Okabe & Ito 2008)
BANNER = (
    "This page is about one patient of this site. It was made for those who may read the patient's "
    "record, and nothing of it was sent. Keep it here."
)
STYLE = """
:root { color-scheme: light dark; }
body { margin: 0 auto; max-width: 60rem; padding: 1.5rem 1rem 4rem; line-height: 1.5;
  font-family: system-ui, "DejaVu Sans", sans-serif; }
.banner { border-left: 4px solid #b03a00; padding: .4rem .8rem; background: #b03a0022; }
h1 { font-size: 1.5rem; line-height: 1.2; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid #8886; }
.number { text-align: right; font-variant-numeric: tabular-nums; width: 7rem; }
.bar { width: 45%; }
.bar div { height: .8rem; border-radius: 2px; }
.adds { background: rgb(213 94 0); } .takes { background: rgb(0 114 178); }
.letters { font-family: ui-monospace, "DejaVu Sans Mono", monospace; line-height: 1.9;
  overflow-wrap: anywhere; }
.letters span { padding: .15rem .12rem; }
figure { display: inline-block; margin: .5rem 1rem .5rem 0; } img { max-width: 100%; }
img { image-rendering: pixelated; } figcaption, .soft { font-size: .88rem; opacity: .8; }
"""


def page(study: Study, row: int, method: str, found: Reasons, patient: Floats) -> str:
    """The whole page.

    Args:
        row: of the table, from 1. patient: (inputs,) as encoded.

    Raises:
        UsageError: the package that draws images is not installed.
    """
    about = f" for “{found.about}”" if found.about else ""
    title = f"Why {study.name} says what it says of the patient in row {row}"
    parts = [
        element("p", BANNER, class_="banner"),
        element("h1", title),
        element(
            "p",
            f"The model's answer{about} is {found.answer:.4g}; of a patient of whom nothing is "
            f"known it is {found.empty:.4g}. {_meaning(method)}",
        ),
        *_blocks(study, found, patient),
        element("h2", "By column"),
        _bars(found),
        element(
            "p",
            "What moves the model is not what causes the outcome, and two columns that go together "
            "share what either would get alone.",
            class_="soft",
        ),
    ]
    head = Html(
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="robots" content="noindex"><meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">"
    )
    named = element("title", title) + f"<style>{STYLE}</style></head><body><main>"
    return head + named + join(*parts) + "</main></body></html>\n"


def _meaning(method: str) -> str:
    """What the colours and bars are."""
    words = method.replace("_", " ")
    if method in LOOKS:
        return f"Below, where the model looks, by {words}: the fuller the orange, the more."
    return f"Below, what lies between them, by {words}: orange raises the answer, blue lowers it."


def _blocks(study: Study, found: Reasons, patient: Floats) -> Iterator[Html]:
    """Images and sequences, as they are seen."""
    for block in study.layout.blocks:
        if block.kind == "image":
            yield element("h2", block.name)
            yield join(*_images(block, found.inputs, patient))
        column = study.data_model.columns.get(block.name)
        if block.kind == "sequence" and isinstance(column, SequenceColumn):
            yield element("h2", block.name)
            yield _letters(block, column.letters, found.inputs, patient)


def _bars(found: Reasons) -> Html:
    shown = [one for one in found.columns if one[1]]
    largest = max((abs(added) for _, added in shown), default=1.0)
    rows = [
        element(
            "tr",
            element("th", name, scope="row"),
            element("td", f"{added:+.4g}", class_="number"),
            element("td", _bar(added / largest), class_="bar"),
        )
        for name, added in shown[:SHOWN]
    ]
    heads = element("tr", element("th", "Column"), element("th", "Adds", class_="number"), "")
    left = len(shown) - len(rows)
    more = element("p", f"and {left} columns that add less", class_="soft") if left > 0 else ""
    return join(element("table", element("thead", heads), element("tbody", *rows)), more)


def _bar(share: float) -> Html:
    width = f"width:{max(1, round(100 * abs(share)))}%"
    return element("div", "", class_="adds" if share > 0 else "takes", style=width)


def _letters(block: Block, letters: str, inputs: Floats, patient: Floats) -> Html:
    """Each letter on the colour of what it adds."""
    numbers = patient[block.first : block.stop].astype(int)
    added = inputs[block.first : block.stop]
    largest = float(np.abs(added).max()) or 1.0
    spans = []
    for number, value in zip(numbers, added, strict=True):
        if number:  # 0 is padding
            colour = ", ".join(map(str, ADDS if value > 0 else TAKES))
            share = VEIL * abs(float(value)) / largest
            letter = letters[number - 1] if number <= len(letters) else "?"
            style = f"background:rgba({colour}, {share:.2f})"
            spans.append(element("span", letter, style=style, title=f"{value:+.3g}"))
    return element("p", *spans, class_="letters")


def _images(block: Block, inputs: Floats, patient: Floats) -> Iterator[Html]:
    """The image, and the same below what moves the model."""
    pixels = patient[block.first : block.stop].reshape(block.shape)
    added = inputs[block.first : block.stop].reshape(block.shape).sum(axis=0)
    plain = np.clip((pixels + 1) / 2, 0, 1).transpose(1, 2, 0) * 255
    if plain.shape[2] != len(ADDS):  # anything but colours is shown as grey
        plain = np.repeat(plain.mean(axis=2, keepdims=True), len(ADDS), axis=2)
    largest = float(np.abs(added).max()) or 1.0
    veil = (VEIL * np.abs(added) / largest)[:, :, None]
    colour = np.where(added[:, :, None] > 0, np.array(ADDS), np.array(TAKES))
    yield _figure(plain, "as the model gets it")
    yield _figure(plain * (1 - veil) + colour * veil, "what moves the model")


def _figure(pixels: NDArray[np.floating], caption: str) -> Html:
    try:
        from PIL import Image
    except ImportError:
        raise UsageError(
            '--html of an image needs a package: pip install "cohortium[images]"'
        ) from None
    drawn = Image.fromarray(np.round(pixels).astype(np.uint8))
    scale = max(1, SIDE // max(drawn.size))
    drawn = drawn.resize((drawn.width * scale, drawn.height * scale), Image.Resampling.NEAREST)
    raw = io.BytesIO()
    drawn.save(raw, "PNG")
    source = f"data:image/png;base64,{base64.b64encode(raw.getvalue()).decode()}"
    return element(
        "figure", element("img", src=source, alt=caption), element("figcaption", caption)
    )
