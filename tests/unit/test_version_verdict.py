"""Words of a comparison of two versions."""

from __future__ import annotations

import pytest

from domain.version_verdict import VersionFigures, verdict


def figures(count: int, failures: int, p50: float | None, p95: float | None) -> VersionFigures:
    return VersionFigures(version="v", count=count, failures=failures, p50_ms=p50, p95_ms=p95)


OLD = figures(980, 4, 100.0, 400.0)


@pytest.mark.parametrize(
    ("new", "status", "words"),
    [
        (
            figures(1204, 5, 101.0, 552.0),
            "failed",
            "p50 as before, p95 38% slower, 0.4% fail, as before; 1,204 against 980 tasks",
        ),
        (
            figures(1204, 60, 50.0, 200.0),
            "failed",
            "p50 50% faster, p95 50% faster, 5.0% fail, against 0.4%; 1,204 against 980 tasks",
        ),
        (
            figures(1000, 4, 100.0, 200.0),
            "completed",
            "p50 as before, p95 50% faster, 0.4% fail, as before; 1,000 against 980 tasks",
        ),
        (
            figures(1000, 4, None, None),
            "completed",
            "0.4% fail, as before; 1,000 against 980 tasks",
        ),
        (
            figures(12, 12, 900.0, 900.0),
            "waiting",
            "too few tasks to judge: 12 against 980 tasks",
        ),
    ],
    ids=["slower", "fails more", "faster", "unknown durations", "too few"],
)
def test_a_newer_version_is_judged(new: VersionFigures, status: str, words: str) -> None:
    found = verdict(OLD, new)
    assert (found.status, found.words) == (status, words)
