"""The page of the laws names files and tests that exist, and code names laws that stand there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/laws.md").read_text()
NUMBERS = [int(number) for number in re.findall(r"^## Law (\d+):", PAGE, re.MULTILINE)]
SOURCES = [
    path
    for folder in ("domain", "workers", "sinks", "recorder", "drakkar_site", "tests")
    for path in (ROOT / folder).rglob("*.py")
]


def test_there_are_ten_laws_each_with_reason_place_and_test() -> None:
    assert list(range(1, 11)) == NUMBERS
    for text in re.split(r"^## Law ", PAGE, flags=re.MULTILINE)[1:]:
        assert re.findall(r"^- (Why|Enforced|Held by):", text, re.MULTILINE) == [
            "Why",
            "Enforced",
            "Held by",
        ], text.splitlines()[0]


@pytest.mark.parametrize("named", sorted(set(re.findall(r"`([\w/]+\.py(?:::\w+)?)`", PAGE))))
def test_what_the_page_names_exists(named: str) -> None:
    path, _, test = named.partition("::")
    source = (ROOT / path).read_text()
    assert not test or re.search(rf"^(?:def {test}\(|{test} = )", source, re.MULTILINE)


def test_code_names_only_laws_that_stand_on_the_page() -> None:
    named = {
        int(number)
        for path in SOURCES
        for number in re.findall(r"\blaws? (\d+)\b", path.read_text(), re.IGNORECASE)
    }
    assert named
    assert named <= set(NUMBERS)
