"""The rule as text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.rule import Rule


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("3-2-1", Rule(3, 2, 1)),
        ("3-2-1-1-0", Rule(3, 2, 1, 1, zero_errors=True)),
        ("2-1-0", Rule(2, 1, 0)),
        ("1-1-0-0-0", Rule(1, 1, 0, 0, zero_errors=True)),
    ],
)
def test_parsed(text: str, rule: Rule) -> None:
    assert Rule.parse(text) == rule
    assert str(rule) == text


@pytest.mark.parametrize(
    "text",
    ["", "3", "3-2", "3-2-1-1", "3-2-1-1-1", "1-2-0", "2-1-3", "0-0-0", "a-b-c", "3-2-1-4-0", "-3-2-1", "３-2-1"],
)
def test_refused(text: str) -> None:
    with pytest.raises(ValueError, match="rule"):
        Rule.parse(text)


@given(st.text(alphabet="0123456789-", max_size=12))
def test_any_text_is_a_rule_that_reads_back_or_refused(text: str) -> None:
    try:
        rule = Rule.parse(text)
    except ValueError:
        return
    assert Rule.parse(str(rule)) == rule
