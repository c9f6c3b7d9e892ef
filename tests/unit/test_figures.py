"""Figures as the pages write them."""

from __future__ import annotations

import mmap
from datetime import UTC, datetime, timedelta, timezone

import pytest

from drakkar_site.templatetags import figures
from workers.runtime.figures import StateTimer, rss_bytes

NOW = datetime(2026, 3, 14, 3, 0, tzinfo=UTC)
MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("at", "shown"),
    [
        (NOW - timedelta(hours=3), "00:00:00.000"),
        (NOW - timedelta(hours=3, milliseconds=1), "03-13 23:59:59.999"),
        (NOW + timedelta(days=1), "03-15 03:00:00.000"),
        (NOW.replace(year=2025), "2025-03-14 03:00:00.000"),
        (datetime(2026, 3, 14, 1, tzinfo=timezone(timedelta(hours=2))), "03-13 23:00:00.000"),
    ],
)
def test_a_time_of_another_day_has_its_date(
    monkeypatch: pytest.MonkeyPatch, at: datetime, shown: str
) -> None:
    monkeypatch.setattr("django.utils.timezone.now", lambda: NOW)
    mark = figures.moment(at)
    assert f">{shown}</time>" in mark
    assert f'title="{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}.' in mark


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (None, "unknown"), (0, "0 bytes"), (1023, "1,023 bytes"), (1536, "1.5 KiB"),
        (10 * MIB, "10 MiB"), (1023 * MIB, "1,023 MiB"), (1024 * MIB, "1 GiB"),
        (1536 * MIB, "1.5 GiB"), (5000 * 1024 * MIB, "5,000 GiB"),
    ],
)  # fmt: skip
def test_a_size_has_the_unit_that_fits(size: int | None, shown: str) -> None:
    assert figures.mib(size) == shown


@pytest.mark.parametrize(
    ("ms", "shown"),
    [
        (None, "unknown"), (0.25, "0.25 ms"), (999.4, "999 ms"), (999.5, "1 s"), (999.7, "1 s"),
        (59_940.0, "59.9 s"), (59_960.0, "1 min 00 s"), (3_600_000.0, "1 h 00 min"),
        (7_620_000.0, "2 h 07 min"),
    ],
)  # fmt: skip
def test_a_duration_has_no_exponent(ms: float | None, shown: str) -> None:
    assert figures.dur(ms) == shown


def test_the_memory_of_a_process_is_what_it_holds_now() -> None:
    before, size = rss_bytes(), 64 * MIB
    with mmap.mmap(-1, size) as held:
        held.write(b"x" * size)
        most = rss_bytes()
    assert most - before > size * 0.9
    assert most - rss_bytes() > size * 0.9


def test_a_state_lasts_since_it_was_first_told() -> None:
    lasting = StateTimer()
    assert [lasting.since("starting", now) for now in (5.0, 6.0)] == [5.0, 5.0]
    assert [lasting.since("ready", now) for now in (7.0, 9.0)] == [7.0, 7.0]
    assert lasting.since("starting", 11.0) == 11.0


def test_control_characters_are_visible() -> None:
    assert figures.visible("a\0\x1b[1m\x7f\t\n") == "a\u2400\u241b[1m\u2421\t\n"
