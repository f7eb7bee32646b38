"""All forms of a report as files: what is stored, shown and given away."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from drills.report.html import to_html
from drills.report.json_form import to_text as json_text
from drills.report.junit import to_junit
from drills.report.model import DrillReport
from drills.report.text import to_text

FILES: Mapping[str, str] = {
    "json": "report.json",
    "html": "report.html",
    "junit": "junit.xml",
    "text": "report.txt",
}
"""Form -> the name of its file."""


def forms(report: DrillReport) -> dict[str, str]:
    """File name -> content; equal reports give equal files. The page names the SHA-256 of report.json."""
    plain = json_text(report)
    return {
        FILES["json"]: plain,
        FILES["html"]: to_html(report, hashlib.sha256(plain.encode()).hexdigest()),
        FILES["junit"]: to_junit(report),
        FILES["text"]: to_text(report),
    }
