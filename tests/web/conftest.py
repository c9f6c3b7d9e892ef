"""A signed-in and a bare client, and rows to look at."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import Group, User
from django.db import transaction
from django.test import Client
from django.utils import timezone

from drakkar_site.accounts.tokens import issue
from recorder.models import Event, Run, RunState

START = datetime(2026, 3, 14, 3, 0, tzinfo=UTC)
MakeRun = Callable[..., Run]


@pytest.fixture
def user(db: None) -> User:
    """Somebody without a role: a viewer."""
    return User.objects.create_user("mara", password="a-long-password")


@pytest.fixture
def operator(client: Client, user: User) -> Client:
    """A client of mara, who operates."""
    user.groups.add(Group.objects.get_or_create(name="operator")[0])
    client.force_login(user)
    return client


@pytest.fixture
def secret(user: User) -> str:
    """A token that may read, as mara."""
    return issue(user, ["read"], timezone.now() + timedelta(days=1))[1]


AHEAD = timedelta(minutes=1)
"""So much later than made is a beat: it is new for a test, however slow the machine is."""


@pytest.fixture
def make_run(db: None) -> MakeRun:
    """Makes a run with its beat."""

    def make(worker: str = "worker-1", cluster: str = "main", **beat: Any) -> Run:
        run = Run.objects.create(
            id=uuid4(),
            cluster=cluster,
            worker=worker,
            host="host",
            pid=1,
            version="1",
            isolation="none",
            slots=4,
            config_hash="",
            started_at=timezone.now(),
        )
        values = {"state": "ready", "beat_at": timezone.now() + AHEAD, **beat}
        RunState.objects.create(run=run, **values)
        return run

    return make


def make_events(run: Run, last: int, first: int = 1, **columns: Any) -> None:
    """Events with these sequence numbers, a second apart, two of each moment."""
    rows = [
        {
            **{"kind": "consumed", "topic": "t", "partition": 0, "offset": number},
            **{"ts": START + timedelta(seconds=number // 2), **columns},
            "run": run.id,
            "seq": number,
        }
        for number in range(first, last + 1)
    ]
    with transaction.atomic():  # as the recorder does it
        Run.objects.filter(id=run.id).update(recorded_seq=last)
        Event.objects.copy_in(rows)
