"""The templates can be read and compared line by line."""

from __future__ import annotations

from pathlib import Path

TEMPLATES = Path(__file__).resolve().parents[2] / "templates"
MOST_CHARACTERS = 160


def test_no_line_of_a_template_is_longer_than_a_screen() -> None:
    found = sorted(TEMPLATES.rglob("*.html"))
    assert found
    long = [
        f"{path.relative_to(TEMPLATES)}:{number}: {len(line)} characters"
        for path in found
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if len(line) > MOST_CHARACTERS
    ]
    assert long == []
