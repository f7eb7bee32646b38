"""docs/configuration.md says what the model says."""

import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel

from drkit.config import model
from drkit.config.load import check
from tests.docs.configuration import EXAMPLE, PAGE, page, rows, section_of, sections


def test_the_page_is_the_model() -> None:
    assert PAGE.read_text() == page(), "write it anew: python -m tests.docs.configuration"


def test_its_example_is_a_configuration() -> None:
    config = check(tomllib.loads(EXAMPLE), Path("drkit.toml"))
    assert set(config.target) == {"local", "vault"}


@pytest.mark.parametrize(("heading", "section"), list(sections(model.Config, "")), ids=str)
def test_every_key_has_a_row(heading: str, section: type[BaseModel]) -> None:
    text = page().partition(f"## `{heading}`\n")[2].partition("\n## ")[0]
    told = [row.key for row in rows(section)]
    assert all(f"| `{key}` |" in text for key in told)
    inside = {name for name, field in section.model_fields.items() if section_of(field.annotation)[0] is not None}
    assert set(section.model_fields) - set(told) == inside
