"""The lock of a cluster's periodic jobs on a real PostgreSQL: one holder, given up with it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import DatabaseError, connection

from integration.demo.supervisor import until
from workers.runtime.periodic import AdvisoryLocks

pytestmark = pytest.mark.django_db(transaction=True)


class Elsewhere:
    """Another worker's locks, on a thread and a connection of their own."""

    def __init__(self, cluster: str) -> None:
        self.locks = AdvisoryLocks(cluster)
        self._thread = ThreadPoolExecutor(1)

    def leads(self, name: str) -> bool:
        return self._thread.submit(self.locks.leads, name).result(10)

    def backend(self) -> int:
        def ask() -> int:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_backend_pid()")
                return int(cursor.fetchone()[0])

        return self._thread.submit(ask).result(10)

    def close(self) -> None:
        self._thread.submit(self.locks.close).result(10)
        self._thread.shutdown()


def test_one_worker_of_a_cluster_leads_until_its_connection_ends() -> None:
    first, second, other = Elsewhere("main"), Elsewhere("main"), Elsewhere("fast")
    try:
        assert first.leads("sweep")
        assert first.leads("sweep")
        assert not second.leads("sweep")
        assert second.leads("report")
        assert other.leads("sweep")
        first.close()
        # Postgres gives the lock up when its process has noticed the end of the connection.
        assert until(lambda: second.leads("sweep"), 10.0)
    finally:
        second.close()
        other.close()


def test_a_cut_connection_is_told_and_the_lock_is_asked_for_anew() -> None:
    first, second = Elsewhere("cut"), Elsewhere("cut")
    try:
        assert first.leads("sweep")
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [first.backend()])
        with pytest.raises(DatabaseError):
            first.leads("sweep")
        assert second.leads("sweep")
        assert not first.leads("sweep")
    finally:
        first.close()
        second.close()
