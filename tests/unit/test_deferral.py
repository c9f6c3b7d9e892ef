"""What the record of a deferred message says, and how it is read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.deferral import OWN_HEADERS, Deferral, first_life
from domain.fate import Fate
from domain.message import Message, Record
from domain.origin import MessageOrigin, only_tasks

SOURCE, RETRY = "source", "retries"


def message(headers: Any = ()) -> Record:
    return Message(
        topic=SOURCE, partition=3, offset=17, key=b"k", value=b"v", headers=headers, timestamp=99,
        payload=None,
    )  # fmt: skip


deferrals = st.builds(
    Deferral,
    origin=st.builds(
        MessageOrigin,
        cluster=st.just("main"),
        topic=st.just(SOURCE),
        partition=st.integers(0, 2**31 - 1),
        offset=st.integers(0, 2**63 - 1),
        timestamp=st.integers(-1, 2**63 - 1),
    ),
    due_at=st.integers(0, 10**14).map(lambda ms: ms / 1000.0),
    attempts=st.dictionaries(
        st.integers(0, 10**9 - 1), st.integers(1, 10**6 - 1), min_size=1, max_size=20
    ),
    fate=st.sampled_from([fate for fate in Fate if fate is not Fate.DEFERRED]),
)
names = st.sampled_from([*OWN_HEADERS, "h", "traceparent", "drakkar-edited-by"])


@given(deferrals, st.lists(st.tuples(names, st.binary(max_size=20)), max_size=5))
def test_it_is_read_as_it_was_written_and_the_rest_of_the_record_stays(
    deferral: Deferral, headers: list[tuple[str, bytes]]
) -> None:
    written = deferral.headers(message(headers), RETRY)
    record = replace(message(written), topic=RETRY, offset=2)
    assert Deferral.of(record) == deferral
    assert only_tasks(record) == frozenset(deferral.attempts)
    assert MessageOrigin.of(record, "other") == deferral.origin
    others = [header for header in headers if header[0] not in OWN_HEADERS]
    assert written[: len(others)] == others
    born = first_life(record)
    assert (born.topic, born.offset, list(born.headers)) == (
        SOURCE, deferral.origin.offset, others,
    )  # fmt: skip
    assert (born.key, born.value) == (record.key, record.value)


@given(deferrals)
def test_a_second_deferral_replaces_the_headers_of_the_first(deferral: Deferral) -> None:
    first = replace(message(deferral.headers(message(), RETRY)), topic=RETRY)
    again = replace(deferral, due_at=7.5, attempts={4: 9})
    second = replace(first, headers=again.headers(first, RETRY))
    assert Deferral.of(second) == again
    assert len(second.headers) == len(OWN_HEADERS)


DEFERRAL = Deferral(origin=MessageOrigin.of(message(), "main"), due_at=1.0, attempts={0: 1})


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("drakkar-due", b"", "drakkar-due: expected milliseconds since the epoch, got ''"),
        ("drakkar-due", b"-1", "got '-1'"),
        ("drakkar-due", b"1" * 16, "drakkar-due: expected"),
        ("drakkar-attempts", b"0=", "drakkar-attempts: expected attempts by task such as 0=2"),
        ("drakkar-attempts", b"0=9999999", "drakkar-attempts: expected"),
        ("drakkar-fate", b"deferred", "drakkar-fate"),
        ("drakkar-fate", b"lost", "got 'lost'"),
        ("drakkar-replay-of", b"main/source/0", "a message that a worker deferred to retries"),
        ("drakkar-replay-of", b"main/retries/0/1/2", "a message that a worker deferred to retries"),
        ("drakkar-deferred-to", b"others", "a message that a worker deferred to retries"),
        ("drakkar-attempts", b",".join(b"%d=1" % n for n in range(1001)), "at most 1,000 tasks"),
    ],
)
def test_a_malformed_header_is_named(name: str, content: bytes, told: str) -> None:
    headers = [
        (each, content if each == name else value)
        for each, value in DEFERRAL.headers(message(), RETRY)
    ]
    with pytest.raises(ValueError, match=r"drakkar-") as raised:
        Deferral.of(replace(message(headers), topic=RETRY))
    assert told in str(raised.value)


def test_headers_of_a_deferral_say_nothing_outside_of_the_retry_topic() -> None:
    copied = replace(message(DEFERRAL.headers(message(), RETRY)), topic="output")
    assert MessageOrigin.of(copied, "main").topic == "output"
    assert only_tasks(copied) is None
    assert first_life(copied) is copied
