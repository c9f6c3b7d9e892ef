"""Pages of lists by time and key: none left out, none twice, whatever shares a moment."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest

from domain.paging import PAGE_ROWS, Page, page
from recorder.models import ExportJob
from tests.support.factories import at

pytestmark = pytest.mark.django_db
ROWS = 2 * PAGE_ROWS + 20


@pytest.mark.parametrize("moments", [1, 3, ROWS])
def test_pages_follow_each_other_both_ways(moments: int) -> None:
    times = [at(0) + timedelta(seconds=number % moments) for number in range(ROWS)]
    jobs = [
        ExportJob(id=uuid4(), name="n", actor="mara", created_at=time, progress_at=time)
        for time in times
    ]
    ExportJob.objects.bulk_create(jobs)
    wanted = sorted(jobs, key=lambda job: (job.created_at, job.pk), reverse=True)
    rows = ExportJob.objects.all()
    first: Page[ExportJob] = page(rows, "created_at")
    second = page(rows, "created_at", older=first.older)
    third = page(rows, "created_at", older=second.older)
    shown = [*first.rows, *second.rows, *third.rows]
    assert [job.pk for job in shown] == [job.pk for job in wanted]
    assert (first.newer, third.older) == ("", "")
    back = page(rows, "created_at", newer=third.newer)
    assert back == second
    assert page(rows, "created_at", newer=back.newer).rows == first.rows


@pytest.mark.parametrize(
    "key", ["x", "_", "2026-01-01_x", "_00000000-0000-4000-8000-000000000000", "9" * 400 + "_1"]
)
def test_a_key_that_is_none_is_named(key: str) -> None:
    for name in ("older", "newer"):
        with pytest.raises(ValueError, match=f"^{name}: not a place in the list"):
            page(ExportJob.objects.all(), "created_at", **{name: key})
