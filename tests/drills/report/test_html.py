"""The page as markup: well formed, closed to the outside, and nothing in it that a name wrote."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from importlib.resources import files

import pytest

from drills.report.forms import FILES, forms
from drills.report.html import to_html
from drills.report.markup import join, tag, text
from drills.report.model import DrillReport
from tests.drills.report.samples import HOSTILE, aborted, failed, hostile, passed, sha

ALL = [passed(), failed(), aborted(), hostile()]
IDS = ("passed", "failed", "aborted", "hostile")
VOID = {"meta", "br", "hr", "wbr", "col"}


class Reader(HTMLParser):
    """Elements, attributes and text; fails where tags do not match."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)


def parsed(report: DrillReport) -> Reader:
    found = Reader()
    found.feed(to_html(report, sha("json")))
    found.close()
    assert found.open == []
    return found


@pytest.mark.parametrize("report", ALL, ids=IDS)
def test_it_is_well_formed_and_closed(report: DrillReport) -> None:
    found = parsed(report)
    tags = {name for name, _ in found.seen}
    assert not tags & {"script", "img", "link", "iframe", "object", "embed", "form", "a", "base", "foreignobject"}
    for _, attributes in found.seen:
        assert not [name for name in attributes if name.startswith("on") or name in ("src", "href", "xlink:href")]
    assert "url(" not in re.sub(r"url\(#\w+\)", "", to_html(report, ""))
    assert "@import" not in to_html(report, "")


def test_hostile_names_are_text() -> None:
    found = parsed(hostile())
    words = "".join(found.words)
    assert words.count("<script>alert(1)</script>") > 40, "they are shown as they are"
    assert "\x1b" not in words and "\u202e" not in words
    assert len(parsed(failed()).seen) >= len(found.seen) - 20


@pytest.mark.parametrize("report", ALL, ids=IDS)
def test_every_drawing_has_a_name_or_is_decoration(report: DrillReport) -> None:
    html = to_html(report, "")
    for start in re.finditer(r"<svg\b[^>]*>", html):
        named = 'aria-hidden="true"' in start[0] or html[start.end() :].startswith("<title>")
        nested = 'overflow="visible"' in start[0]
        assert named or nested, start[0]


def test_all_that_is_asked_of_a_report_is_on_the_page() -> None:
    report = passed()
    words = " ".join(parsed(report).words)
    for text_ in (report.sentence, report.fault, report.backup, report.before, sha("json"), *report.untested):
        assert text_ in words
    for check in report.checks:
        assert check.title in words and check.actual in words
    for name, digest in report.evidence.items():
        assert name in words and digest in words
    assert "denied, nothing read" in words and "8.30 GiB" in words
    assert "cold: first read of this target today" in words
    assert "99% of it" in words


def test_few_rows_are_marks_and_many_are_bins() -> None:
    few, many = to_html(failed(), ""), to_html(passed(), "")
    assert few.count('class="keptline"') > 30 and 'class="kept"' not in few
    assert 60 < many.count('class="kept"') <= 121 and 'class="keptline"' not in many
    assert "lost" in few and 'class="lostbox"' in many


def test_a_page_of_many_rows_stays_small() -> None:
    assert len(to_html(passed(), "")) < 120_000


def test_markup_escapes_what_is_not_its_own() -> None:
    assert tag("p", "<b>", title='"x"') == '<p title="&quot;x&quot;">&lt;b&gt;</p>'
    assert tag("p", tag("b", "x"), None) == "<p><b>x</b></p>"
    assert tag("td", class_="n", colspan=3, hidden=True, id=None) == '<td class="n" colspan="3" hidden></td>'
    assert "<script" not in text(HOSTILE)
    assert join(["<", tag("br"), None]) == "&lt;<br>"


def test_all_forms_are_made_and_the_page_names_the_json() -> None:
    made = forms(passed())
    assert set(made) == set(FILES.values())
    assert sha(made["report.json"]) in made["report.html"]
    assert forms(passed()) == made


def _luminance(color: str) -> float:
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", [0, 1, 2], ids=("light", "dark", "print"))
def test_words_stand_out_from_the_paper(scheme: int) -> None:
    """Contrast of 4.5 at least (WCAG 2, 1.4.3), 3 for drawings (1.4.11)."""
    css = files("drills.report").joinpath("page.css").read_text("utf-8")
    blocks = re.findall(r":root \{([^}]*)\}", css)
    six = {name: value if len(value) == 7 else "#" + "".join(c * 2 for c in value[1:])
           for name, value in re.findall(r"--(\w+): (#[0-9a-f]{3,6})", blocks[scheme])}  # fmt: skip
    paper = _luminance(six["paper"])
    for name, least in (("ink", 7), ("soft", 4.5), ("good", 4.5), ("bad", 4.5), ("doubt", 4.5), ("bar", 3)):
        low, high = sorted((paper, _luminance(six[name])))
        assert (high + 0.05) / (low + 0.05) >= least, name
