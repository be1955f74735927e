"""The evidence report in a real Chromium: on a screen, on a phone, in the dark and on paper."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.report_evidence import evidence, facts

from cohortium.common.audit.evidence import Evidence
from cohortium.common.audit.report.page import page

pytest.importorskip("websockets", reason="needs the websockets package to talk to a browser")

from tests import browser

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        browser.installed() is None, reason=f"no Chromium installed ({', '.join(browser.NAMES)})"
    ),
]

# What sticks out to the right without a scroll bar of its own around it.
STICKS_OUT = """
(() => {
  const width = document.documentElement.clientWidth, found = [];
  for (const one of document.querySelectorAll('body *')) {
    if (one.closest('.scroll')) continue;
    if (one.getBoundingClientRect().right > width + 1) found.push(one.tagName);
  }
  return found;
})()
"""
# Rows of the first page that are wider than the window: nobody scrolls there.
CUT_ON_FIRST_PAGE = """
[...document.querySelectorAll('.block .scroll')].filter(
  one => one.scrollWidth > one.clientWidth + 1).length
"""
SAMPLES: dict[str, Callable[[], Evidence]] = {
    "rich": evidence,
    "empty": lambda: evidence([], 0, studies=(), ledger=(), selftests=(), witnessed=(), sites=()),
    "many": lambda: evidence(studies=tuple(facts() for _ in range(12))),
}


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Tab]:
    with browser.tab(tmp_path_factory.mktemp("profile")) as one:
        yield one


@pytest.fixture(scope="module", params=SAMPLES)
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(page(SAMPLES[request.param]()))
    return path


@pytest.mark.parametrize("width", [1280, 768, 400, 320])
def test_nothing_sticks_out_and_the_first_page_needs_no_scrolling_sideways(
    tab: browser.Tab, file: Path, width: int
) -> None:
    tab.open(file, width)
    assert tab.value("document.scrollingElement.scrollWidth") <= width
    assert tab.value(STICKS_OUT) == []
    if width not in (768,):  # a tablet may scroll the widest table
        assert tab.value(CUT_ON_FIRST_PAGE) == 0


def test_the_browser_has_nothing_to_complain_of(tab: browser.Tab, file: Path) -> None:
    tab.complaints.clear()
    tab.open(file, 1280)
    assert tab.value("document.title") == "net: evidence"
    assert tab.complaints == []


def test_text_can_be_read_in_the_dark(tab: browser.Tab, file: Path) -> None:
    tab.open(file, 1280, dark=True)
    ground, ink = (
        [
            int(part)
            for part in re.findall(r"\d+", tab.value(f"getComputedStyle(document.body).{key}"))
        ]
        for key in ("backgroundColor", "color")
    )
    assert max(ground) < 60
    assert min(ink) > 200


def test_the_first_page_of_paper_holds_all_seven_answers(tab: browser.Tab, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(page(evidence()))
    tab.open(path, 1280)
    printed = tab.pdf()
    assert printed.startswith(b"%PDF")
    assert 3 < len(re.findall(rb"/Type\s*/Page\b", printed)) < 15
    tab.ask("Emulation.setEmulatedMedia", media="print")
    tab.ask(
        "Emulation.setDeviceMetricsOverride",
        width=695, height=1024, deviceScaleFactor=1, mobile=False,
    )  # fmt: skip  # A4 without its margins, at 96 dots per inch
    bottom = tab.value("document.querySelector('.limits').getBoundingClientRect().bottom")
    tab.ask("Emulation.setEmulatedMedia", media="")
    assert bottom < 1024
