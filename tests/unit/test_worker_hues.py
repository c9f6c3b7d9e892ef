"""Colours of workers: by name, different in view, and seen in both themes."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.worker_hues import HUES, first_hue, hues

CSS = Path(__file__).resolve().parents[2] / "drakkar_site" / "static" / "drakkar" / "drakkar.css"
names = st.sets(
    st.tuples(st.sampled_from(["main", "fast", "größe"]), st.text(max_size=3)), max_size=HUES
)
Colour = tuple[float, float, float]


@given(names)
def test_as_many_workers_as_there_are_colours_differ(found: set[tuple[str, str]]) -> None:
    chosen = hues(found)
    assert chosen.keys() == found
    assert len(set(chosen.values())) == len(found)
    assert set(chosen.values()) <= set(range(1, HUES + 1))


@given(names, st.randoms())
def test_the_order_in_which_workers_come_does_not_matter(
    found: set[tuple[str, str]], chance: object
) -> None:
    shuffled = list(found)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    assert hues(shuffled) == hues(found)


def test_a_worker_alone_has_the_colour_of_its_name() -> None:
    assert hues([("main", "worker-1")]) == {("main", "worker-1"): first_hue(("main", "worker-1"))}


def test_past_twelve_each_colour_is_used_as_often() -> None:
    chosen = list(hues(("main", f"w-{n}") for n in range(3 * HUES)).values())
    assert {chosen.count(hue) for hue in range(1, HUES + 1)} == {3}


def tokens(theme: int) -> dict[str, Colour]:
    """The colours of a theme by name, as linear light of red, green and blue."""
    found = re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", CSS.read_text())
    return {name: linear(pair[theme]) for name, *pair in found}


def linear(text: str) -> Colour:
    red, green, blue = (int(text[at : at + 2], 16) / 255 for at in (1, 3, 5))

    def each(share: float) -> float:
        return float(share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4)

    return each(red), each(green), each(blue)


def contrast(one: Colour, other: Colour) -> float:
    """WCAG 2.2, relative luminance."""
    lights = sorted(0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in (one, other))
    return (lights[1] + 0.05) / (lights[0] + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_each_colour_stands_out_from_what_lies_behind_it_and_from_the_others(theme: int) -> None:
    known = tokens(theme)
    own = [known[f"w{hue}"] for hue in range(1, HUES + 1)]
    for behind in ("surface", "bg", "sunken"):
        assert min(contrast(each, known[behind]) for each in own) >= 3, behind
    nearest = min(
        sum((a - b) ** 2 for a, b in zip(oklab(one), oklab(other), strict=True)) ** 0.5
        for one, other in combinations(own, 2)
    )
    assert nearest > 0.05


def oklab(colour: Colour) -> tuple[float, ...]:
    """Ottosson's perceptual space: equal distances look equally different."""
    r, g, b = colour
    l, m, s = (  # noqa: E741 - its names
        (0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b) ** (1 / 3),
        (0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b) ** (1 / 3),
        (0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b) ** (1 / 3),
    )
    return (
        0.2104542553 * l + 0.7936177850 * m - 0.0040720468 * s,
        1.9779984951 * l - 2.4285922050 * m + 0.4505937099 * s,
        0.0259040371 * l + 0.7827717662 * m - 0.8086757660 * s,
    )
