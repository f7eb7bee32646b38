"""The page in a real browser: it stands alone, and what matters can be seen, at any width, by day and by night."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from drills.report.forms import forms
from drills.report.model import DrillReport
from tests.drills.report.browser import Page, browser, installed
from tests.drills.report.samples import aborted, failed, hostile, passed

pytestmark = pytest.mark.real

VISIBLE = """
(selector => [...document.querySelectorAll(selector)].filter(one => {
  const box = one.getBoundingClientRect(), style = getComputedStyle(one);
  return box.width > 0 && box.height > 0 && style.visibility === 'visible' && style.opacity !== '0'
    && box.left >= -1 && box.right <= innerWidth + 1;
}).length)
"""


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    if installed() is None:
        pytest.skip("no chromium or chrome is installed here (apt-get install chromium)")
    with browser() as found:
        yield found


def write(folder: Path, report: DrillReport) -> Path:
    path = folder / "report.html"
    path.write_text(forms(report)["report.html"], "utf-8")
    return path


@pytest.mark.parametrize("sample", [passed, failed, aborted, hostile], ids=lambda one: one.__name__)
@pytest.mark.parametrize("width", [1280, 390])
def test_it_stands_alone(page: Page, tmp_path: Path, sample: object, width: int) -> None:
    """Not one request but for itself, nothing in the console, no script, no dialog, nothing wider than the screen."""
    assert callable(sample)
    path = write(tmp_path, sample())
    page.open(path, width)
    assert page.requests == [path.as_uri()]
    assert page.complaints == []
    assert page.value("document.scripts.length + document.images.length + document.links.length") == 0
    assert page.value("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("width", [1280, 700, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_matters_can_be_seen(page: Page, tmp_path: Path, width: int, scheme: str) -> None:
    report = passed()
    page.open(write(tmp_path, report), width, scheme=scheme)
    assert page.value("document.querySelector('h1').innerText") == report.sentence
    assert page.value("document.querySelector('.verdict').innerText") == "Passed"
    seen = {
        name: page.value(f"{VISIBLE}('{name}')") for name in ("h1", ".verdict", ".fall rect", ".goal", ".strip rect")
    }
    assert seen["h1"] == seen[".verdict"] == 1
    assert seen[".fall rect"] == 11, "every phase that was measured has a bar"
    assert seen[".strip rect"] > 100
    measured = page.value("getComputedStyle(document.body).backgroundColor")
    assert measured == {"light": "rgb(253, 252, 249)", "dark": "rgb(22, 23, 25)"}[scheme]
    below = "document.querySelector('h1').getBoundingClientRect().bottom < innerHeight"
    assert page.value(below), "the verdict is on the first screen"


def test_bars_lie_where_the_clocks_say(page: Page, tmp_path: Path) -> None:
    """The restore, T4 to T5, against an axis that ends 4 % behind the objective."""
    page.open(write(tmp_path, passed()))
    box = "getBoundingClientRect()"
    row = "[...document.querySelectorAll('.fall tbody tr')][5].querySelector('svg')"
    left, width, whole = (
        page.value(f"{row}.querySelector('rect').{box}.left - {row}.{box}.left"),
        page.value(f"{row}.querySelector('rect').{box}.width"),
        page.value(f"{row}.{box}.width"),
    )
    assert left / whole == pytest.approx(341.2 / 1872, abs=0.005)
    assert width / whole == pytest.approx(360.8 / 1872, abs=0.005)


def test_lost_rows_are_marked_by_shape(page: Page, tmp_path: Path) -> None:
    page.open(write(tmp_path, failed()))
    assert page.value(f"{VISIBLE}('figure > svg .lost')") == 21
    assert page.value("document.querySelectorAll('figure > svg .keptline').length") == 39


def test_it_is_named_for_those_who_do_not_see_it(page: Page, tmp_path: Path) -> None:
    """Every drawing that is not decoration has a name; headings do not skip a level; tables say what is a heading."""
    page.open(write(tmp_path, failed()))
    nodes = page.ask("Accessibility.getFullAXTree")["nodes"]
    images = [one for one in nodes if one.get("role", {}).get("value") in ("image", "img", "graphics-document")]
    assert images and all(one.get("name", {}).get("value") for one in images)
    levels = page.value("[...document.querySelectorAll('h1,h2,h3')].map(one => +one.tagName[1])")
    assert levels[0] == 1 and all(after - before <= 1 for before, after in pairwise(levels))
    assert page.value(
        "[...document.querySelectorAll('table')].every(one => one.caption && one.querySelector('th[scope]'))"
    )
    assert page.value("document.documentElement.lang") == "en"


def test_it_prints(page: Page, tmp_path: Path) -> None:
    page.open(write(tmp_path, passed()), scheme="dark")
    printed = page.ask("Page.printToPDF", printBackground=False)["data"]
    assert len(printed) > 10_000
    page.ask("Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    assert page.value("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)", (
        "paper is white by night"
    )
