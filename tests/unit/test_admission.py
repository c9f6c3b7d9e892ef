"""Who finds the web process full, and what gives a place back."""

from __future__ import annotations

import asyncio
from typing import Any

from drakkar_site import admission as door
from drakkar_site.admission import Admission
from drakkar_site.config.tree import WebConfig

WEB = WebConfig(max_requests=2, max_waiting=1, max_wait_seconds=0.5)


class Site:
    """An application whose requests end when the test says so."""

    def __init__(self, *parts: bool) -> None:
        self.may_end = asyncio.Event()
        self.most, self.at_once, self._parts = 0, 0, parts or (False,)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            if self._parts == (False,):
                await self.may_end.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for more in self._parts:
                await send({"type": "http.response.body", "body": b"x", "more_body": more})
                if more:
                    await self.may_end.wait()
        finally:
            self.at_once -= 1


class Client:
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    async def send(self, message: dict[str, Any]) -> None:
        self.messages.append(message)

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.messages[0]["headers"])


async def nothing() -> Any:
    """What a client that stays says."""
    return await asyncio.Event().wait()


async def asked(application: Admission, path: str = "/", count: int = 1) -> list[Client]:
    clients = [Client() for _ in range(count)]
    scope = {"type": "http", "path": path}
    calls = [application(scope, nothing, each.send) for each in clients]
    for call in calls:
        asyncio.ensure_future(call)  # noqa: RUF006 - the door keeps what it runs
    for _ in range(5):
        await asyncio.sleep(0)
    return clients


def test_those_past_the_places_wait_and_those_past_these_are_told_at_once() -> None:
    async def case() -> None:
        site = Site()
        application = Admission(site, WEB)
        clients = await asked(application, count=5)
        refused = [each for each in clients if each.messages]
        assert [each.status for each in refused] == [503, 503]
        assert all(int(each.headers[b"Retry-After"]) > 0 for each in refused)
        assert site.most == 2
        free = await asked(application, "/healthz")
        static = await asked(application, "/static/x.css")
        assert site.at_once == 4
        site.may_end.set()
        for _ in range(20):
            await asyncio.sleep(0)
        assert [each.status for each in clients + free + static].count(200) == 5

    asyncio.run(case())


def test_who_waits_is_told_in_time_by_a_document_where_a_program_asks() -> None:
    async def case() -> None:
        application = Admission(Site(), WEB)
        await asked(application, count=2)
        waiting = await asked(application, "/api/v1/workers")
        assert not waiting[0].messages
        await asyncio.sleep(2 * WEB.max_wait_seconds)
        assert waiting[0].status == 503
        assert waiting[0].headers[b"Content-Type"] == b"application/problem+json"

    asyncio.run(case())


def test_a_long_answer_gives_its_place_back_and_has_a_bound_of_its_own(monkeypatch: Any) -> None:
    monkeypatch.setattr(door, "MAX_SENDING", 3)

    async def case() -> None:
        site = Site(True, False)
        application = Admission(site, WEB)
        clients = [each for _ in range(4) for each in await asked(application)]
        assert [each.status for each in clients] == [200, 200, 200, 503]
        site.may_end.set()
        for _ in range(20):
            await asyncio.sleep(0)
        assert (await asked(application))[0].status == 200

    asyncio.run(case())


def test_who_is_cancelled_keeps_the_place_until_the_view_has_ended() -> None:
    async def case() -> None:
        site = Site()
        application = Admission(site, WEB)
        client = Client()
        calls = [
            asyncio.create_task(application({"type": "http", "path": "/"}, nothing, client.send))
            for _ in range(2)
        ]
        for _ in range(5):
            await asyncio.sleep(0)
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        late = await asked(application, count=3)
        assert site.at_once == 2
        assert [bool(each.messages) for each in late].count(True) == 2  # one waits
        site.may_end.set()
        for _ in range(20):
            await asyncio.sleep(0)
        assert site.at_once == 0
        assert (await asked(application))[0].status == 200

    asyncio.run(case())
