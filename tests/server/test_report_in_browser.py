"""The report in a real Chromium: on a screen, on a phone, in the dark and on paper."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.server.report_samples import heart, survival

from cohortium.server.reports.blinding import blinded
from cohortium.server.reports.report import write_report
from cohortium.server.reports.report_data import ReportData

pytest.importorskip("websockets", reason="needs the websockets package to talk to a browser")

from tests import browser

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        browser.installed() is None, reason=f"no Chromium installed ({', '.join(browser.NAMES)})"
    ),
]

# What sticks out to the right without a scroll bar of its own around it, and cut text in figures.
STICKS_OUT = """
(() => {
  const width = document.documentElement.clientWidth, found = [];
  for (const one of document.querySelectorAll('body *')) {
    if (one.closest('.scroll') || one.closest('svg')) continue;
    if (one.getBoundingClientRect().right > width + 1) found.push(one.tagName);
  }
  return found;
})()
"""
CUT = """
(() => {
  const found = [];
  for (const text of document.querySelectorAll('figure svg text')) {
    const own = text.getBoundingClientRect();
    const frame = text.ownerSVGElement.getBoundingClientRect();
    if (own.width && (own.left < frame.left - 2 || own.right > frame.right + 2))
      found.push(text.textContent);
  }
  return found;
})()
"""
OVERLAP = """
(() => {
  const found = [];
  for (const svg of document.querySelectorAll('figure svg')) {
    const boxes = [...svg.querySelectorAll('text')].filter(t => t.textContent).map(
      t => [t.getBoundingClientRect(), t.textContent]);
    boxes.forEach(([a, one], i) => boxes.slice(i + 1).forEach(([b, other]) => {
      const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (a.width && wide > 1 && high > 4) found.push(one + ' | ' + other);
    }));
  }
  return found;
})()
"""
OPEN = "document.querySelectorAll('details').forEach(one => one.open = true)"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Tab]:
    with browser.tab(tmp_path_factory.mktemp("profile")) as one:
        yield one


@pytest.fixture(scope="module", params=["heart", "survival", "blinded"])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: dict[str, Callable[[], ReportData]] = {
        "heart": heart,
        "survival": survival,
        "blinded": lambda: blinded(heart(), b"secret"),
    }
    return write_report(made[request.param](), tmp_path_factory.mktemp("report"))


@pytest.mark.parametrize("width", [1280, 768, 390, 320])
def test_nothing_sticks_out_of_the_window_or_is_cut(
    tab: browser.Tab, page: Path, width: int
) -> None:
    tab.open(page, width)
    for _ in range(2):
        assert tab.value("document.scrollingElement.scrollWidth") <= width
        assert tab.value(STICKS_OUT) == []
        assert tab.value(CUT) == []
        assert tab.value(OVERLAP) == []
        tab.value(OPEN)


def test_the_browser_has_nothing_to_complain_of(tab: browser.Tab, page: Path) -> None:
    tab.complaints.clear()
    tab.open(page, 1280)
    assert tab.value("document.querySelectorAll('figure svg').length") > 5
    assert tab.value("document.title") == "heart-study: report"
    assert tab.complaints == []


def test_a_first_screen_holds_all_that_must_be_known(tab: browser.Tab, page: Path) -> None:
    tab.open(page, 1280, 900)
    assert tab.value("document.querySelector('dl.short').getBoundingClientRect().bottom") < 900


def test_text_can_be_read_in_the_dark(tab: browser.Tab, page: Path) -> None:
    tab.open(page, 1280, dark=True)
    ground, ink = (
        [
            int(part)
            for part in re.findall(r"\d+", tab.value(f"getComputedStyle(document.body).{key}"))
        ]
        for key in ("backgroundColor", "color")
    )
    assert max(ground) < 60
    assert min(ink) > 200


def test_it_prints_on_pages_with_everything_that_is_folded(
    tab: browser.Tab, page: Path, tmp_path: Path
) -> None:
    tab.open(page, 1280)
    printed = tab.pdf()
    assert printed.startswith(b"%PDF")
    pages = len(re.findall(rb"/Type\s*/Page\b", printed))
    assert 4 < pages < 40
    tab.ask("Emulation.setEmulatedMedia", media="print")
    shown = tab.value(
        "[...document.querySelectorAll('details:not(.bulk) table')].every("
        "one => one.getBoundingClientRect().height > 10)"
    )
    tab.ask("Emulation.setEmulatedMedia", media="")
    assert shown
