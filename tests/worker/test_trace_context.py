"""A message's ``traceparent``: what counts as one, and that it reaches process and sinks."""

from __future__ import annotations

import asyncio
import json

import pytest

from domain.message import Message, Record
from domain.trace_context import traceparent_of
from tests.support.pipeline import TOPIC, new_cluster, running

TRACE = f"00-{'ab' * 16}-{'cd' * 8}-01"
SHOWN = 'printf "%s" "${TRACEPARENT-none}"'


def record(value: bytes | None) -> Record:
    return Message(
        topic=TOPIC,
        partition=0,
        offset=0,
        key=None,
        value=None,
        headers=[("traceparent", value)],
        timestamp=0,
        payload=None,
    )


def test_a_well_formed_one_is_handed_on() -> None:
    assert traceparent_of(record(TRACE.encode())) == TRACE


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"00-ab-cd-01",
        TRACE.upper().encode(),
        f"ff{TRACE[2:]}".encode(),
        f"00-{'0' * 32}-{'cd' * 8}-01".encode(),
        f"00-{'ab' * 16}-{'0' * 16}-01".encode(),
        f"{TRACE}\n".encode(),
        f"{TRACE}\r\nx-evil: 1".encode(),
        f"{TRACE[:-1]}\0".encode(),
        b"\xff" * 55,
        None,
    ],
)
def test_what_has_not_the_standards_form_is_none(value: bytes | None) -> None:
    assert traceparent_of(record(value)) is None


def test_it_reaches_the_process_and_the_sink() -> None:
    async def scenario() -> None:
        cluster = new_cluster()
        value = json.dumps({"script": SHOWN}).encode()
        for header in (TRACE.encode(), b"nul \0 and\nline"):
            cluster.produce(TOPIC, 0, value, headers=[("traceparent", header)])
        cluster.produce(TOPIC, 0, value)
        async with running(cluster) as live:
            await live.fates(3)
            assert await live.stop() == 0
            got = {one.offset: (one.payload.value, one.traceparent) for one in live.stored}
        assert got == {0: (TRACE, TRACE), 1: ("none", None), 2: ("none", None)}

    asyncio.run(scenario())
