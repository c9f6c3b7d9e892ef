"""The fifty searches give the spread that the demo needs; the draw is that of POSIX cksum."""

from __future__ import annotations

import subprocess
from pathlib import PurePosixPath

import pytest

from integration.corpus import ROOT, SEARCHES, is_failure_drawn, match_count


def test_fifty_different_searches_of_relative_paths() -> None:
    assert len(set(SEARCHES)) == 50
    assert not any(PurePosixPath(search.file_path).is_absolute() for search in SEARCHES)


def test_every_file_exists() -> None:
    assert all((ROOT / search.file_path).is_file() for search in SEARCHES)


def test_the_spread_of_match_counts() -> None:
    counts = [match_count(search) for search in SEARCHES]
    assert sum(count > 20 for count in counts) >= 10
    assert sum(count > 50 for count in counts) >= 5
    assert sum(count == 0 for count in counts) >= 5


@pytest.mark.parametrize("request_id", ["", "a", "r1-000001", "x" * 300])
def test_the_draw_follows_cksum(request_id: str) -> None:
    text = f"{request_id}:3".encode()
    done = subprocess.run(["cksum"], input=text, capture_output=True, check=True, timeout=10)
    drawn = int(done.stdout.split()[0]) % 10_000
    assert is_failure_drawn(request_id, 3, (drawn + 2) / 10_000)
    assert not is_failure_drawn(request_id, 3, (drawn - 1) / 10_000)


def test_about_one_in_twenty_attempts_fails() -> None:
    assert 100 < sum(is_failure_drawn(f"r1-{n:06d}", 1) for n in range(3_000)) < 200
