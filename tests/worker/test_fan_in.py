"""One task for several messages: all of them wait for it and share its fate."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

from tests.support.pipeline import TOPIC, Request, ShellHandler, new_cluster, running
from workers.handler import Message, Pending, Task


class Together(ShellHandler):
    """One task a call; its script is the last message's."""

    async def arrange(
        self, messages: Sequence[Message[Request]], pending: Pending
    ) -> Sequence[Task]:
        return [
            Task(
                args=("-c", messages[-1].payload.script),
                source_offsets=tuple(message.offset for message in messages),
            )
        ]


def run_three(last: str, fate: str) -> tuple[list[str], int]:
    """The delivery ids and the number of letters of three messages served by one task."""

    async def scenario() -> tuple[list[str], int]:
        cluster = new_cluster()
        for script in ("true", "true", last):
            cluster.produce(TOPIC, 0, value=json.dumps({"script": script}).encode())
        async with running(cluster, handler=Together({}, max_retries=0)) as live:
            await live.fates(3)
            assert await live.stop() == 0
            fates = {event.offset: event.fate for event in live.heard.of("message_completed")}
            assert fates == dict.fromkeys(range(3), fate)
            assert live.committed() == 3
            ids = [delivery.delivery_id for delivery in live.stored]
            return ids, len(live.letters.stored)

    return asyncio.run(scenario())


def test_one_task_serves_several_messages_and_is_led_by_the_lowest() -> None:
    ids, letters = run_three("echo all", "delivered")
    assert letters == 0
    (delivery_id,) = ids
    assert delivery_id.split("/")[3] == "0"


def test_when_it_fails_each_of_its_messages_is_dead_lettered() -> None:
    ids, letters = run_three("exit 3", "dead_lettered")
    assert (ids, letters) == ([], 3)
