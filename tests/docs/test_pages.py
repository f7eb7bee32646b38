"""What README and docs link to is there, their configurations load, their commands exist with their flags."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drkit.cli.lazy import root_command
from drkit.config.drill import Drill
from drkit.config.load import check
from tests.docs.configuration import EXAMPLE

CODE = Path(__file__).parents[2]
PAGES = sorted([CODE / "README.md", CODE / "CHANGELOG.md", *(CODE / "docs").rglob("*.md")])
NAMES = [str(page.relative_to(CODE)) for page in PAGES]
_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.M | re.S)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_CALL = re.compile(r"(?:^|[;&|] |postgres )\s*(?:/opt/drkit/bin/)?drkit (?!->)(.*)$")


def blocks(page: Path, language: str) -> list[str]:
    return [text for kind, text in _FENCE.findall(page.read_text()) if kind == language]


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    found = re.findall(r"^#+ (.*)$", _FENCE.sub("", page.read_text()), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    page = CODE / name
    broken = []
    for link in _LINK.findall(_FENCE.sub("", page.read_text())):
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        there = page.parent / path if path else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("name", NAMES)
def test_configurations_can_be_loaded(name: str) -> None:
    for text in blocks(CODE / name, "toml"):
        value = tomllib.loads(re.sub(r"^   ", "", text, flags=re.M))
        if "scenario" in value:
            Drill.model_validate(value)
        else:
            check(tomllib.loads(EXAMPLE) | value, CODE / name)


def calls(page: Path) -> Iterator[str]:
    """What is typed behind `drkit`, in shell blocks."""
    for text in blocks(page, "sh"):
        for line in text.replace("\\\n", " ").splitlines():
            found = _CALL.search(line.partition(" #")[0])
            if found:
                yield re.split(r" [|>;&]| 2>", found[1])[0]


@pytest.mark.parametrize("name", NAMES)
def test_commands_exist_with_their_flags(name: str) -> None:
    for call in calls(CODE / name):
        command: Any = root_command()
        words = shlex.split(call)
        known = flags(command)
        while hasattr(command, "get_command"):
            at = next((i for i, word in enumerate(words) if not word.startswith("-")), None)
            assert at is not None, call
            inner = command.get_command(None, words.pop(at))
            assert inner is not None, call
            command = inner
            known |= flags(command)
        strange = {word.partition("=")[0] for word in words if word.startswith("-")} - known
        assert strange == set(), call


def test_commands_are_found() -> None:
    assert len([call for page in PAGES for call in calls(page)]) > 30


def flags(command: Any) -> set[str]:
    return {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
