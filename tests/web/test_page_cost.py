"""No page of the URL map asks the database often, however many rows there are to show."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from integration.bench import fleet
from integration.bench.addresses import addresses

pytestmark = pytest.mark.django_db
MAX_QUERIES = 15
MORE_QUERIES = {"/workers/main/worker-3": 17}
"""A worker's page: its runs, and two lists of its events, each with its runs and rows."""
EVENTS = 2_000
LEAST_PAGES = 80


def test_each_page_asks_at_most_fifteen_times(client: Client) -> None:
    every = addresses(fleet.make(EVENTS))
    assert len(every) >= LEAST_PAGES
    client.force_login(User.objects.create_superuser("mara"))
    wrong = []
    for address in every:
        with CaptureQueriesContext(connection) as asked:
            status = client.get(address).status_code
            queries = len(asked)
        if status not in (200, 302) or queries > MORE_QUERIES.get(address, MAX_QUERIES):
            wrong.append(f"{address}: {status}, {queries} queries")
    assert wrong == []
