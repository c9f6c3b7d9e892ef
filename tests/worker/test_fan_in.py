"""One task for several messages: all of them wait for it and share its fate."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from drakkar import Message, Pending, Task
from drakkar.testing import message, run
from tests.support.pipeline import Request, ShellHandler

CONFIG = {"executor": {"binary": "/bin/sh"}, "sinks": {"store": {"kind": "memory"}}}


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


@pytest.mark.parametrize(
    ("last", "fate", "payloads", "letters"),
    [("echo all", "delivered", 1, 0), ("exit 3", "dead_lettered", 0, 3)],
)
def test_the_messages_of_one_task_share_its_fate(
    last: str, fate: str, payloads: int, letters: int
) -> None:
    given = [message({"script": script}) for script in ("true", "true", last)]
    outcome = run(Together({}, max_retries=0), given, config=CONFIG)
    assert outcome.fates == [fate] * 3
    assert len(outcome.payloads.get("store", ())) == payloads
    assert sorted(letter.offset for letter in outcome.letters) == [*range(letters)]
    assert {attempt.offset for attempt in outcome.attempts} == {0}  # led by the lowest
    assert outcome.committed == {0: 3}
