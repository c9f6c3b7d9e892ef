"""Identity: the same for the same messages, another for any other set of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.message import Message
from domain.origin import REPLAY_HEADER, MessageOrigin, Origin, Sources
from domain.task import Task
from domain.text_bounds import TextBounds
from workers.pipeline.arranging import number_tasks

CLUSTER, TOPIC, PARTITION = "main", "requests", 3
BOUNDS = TextBounds()

offsets = st.integers(0, 2**40)
offset_sets = st.frozensets(offsets, min_size=1, max_size=8)


def message(offset: int, timestamp: int = 7, headers: Any = ()) -> Message[Any]:
    return Message(
        topic=TOPIC,
        partition=PARTITION,
        offset=offset,
        key=None,
        value=b"",
        headers=headers,
        timestamp=timestamp,
        payload=None,
    )


def ids(tasks: list[list[int]], times: dict[int, int]) -> list[str]:
    """The ids of tasks with these source offsets, in a call of all messages of ``times``."""
    messages = [message(offset, times[offset]) for offset in sorted(times)]
    asked = [Task(source_offsets=tuple(each)) for each in tasks]
    return [task.id for task in number_tasks(asked, messages, BOUNDS, CLUSTER)]


def named(sources: frozenset[int], times: dict[int, int]) -> Sources:
    return Sources.of(MessageOrigin.of(message(o, times[o]), CLUSTER) for o in sources)


@given(st.data(), st.frozensets(offsets, min_size=1, max_size=8), offset_sets)
def test_the_order_and_the_company_of_sources_do_not_matter(
    data: st.DataObject, sources: frozenset[int], others: frozenset[int]
) -> None:
    times = {offset: offset % 5 for offset in sources | others}
    alone = ids([sorted(sources)], {offset: times[offset] for offset in sources})
    listed = data.draw(st.permutations(sorted(sources)))
    before = data.draw(st.lists(st.just(sorted(others)), max_size=2 if others != sources else 0))
    assert ids([*before, listed], times)[-1:] == alone


@given(offset_sets, offset_sets, st.integers(0, 3), st.integers(0, 3))
def test_two_sets_have_one_name_only_when_they_are_equal(
    first: frozenset[int], second: frozenset[int], time: int, other_time: int
) -> None:
    one = named(first, dict.fromkeys(first, time))
    two = named(second, dict.fromkeys(second, other_time))
    assert (one == two) is ((first, time) == (second, other_time))


@given(offset_sets, st.data())
def test_a_record_time_of_any_source_counts(sources: frozenset[int], data: st.DataObject) -> None:
    times = dict.fromkeys(sources, 7)
    made_anew = data.draw(st.sampled_from(sorted(sources)))
    assert named(sources, times) != named(sources, times | {made_anew: 8})


@given(st.lists(offsets, min_size=1, max_size=8), st.integers(0, 2**41))
def test_tasks_of_one_message_keep_the_ids_they_always_had(sources: list[int], time: int) -> None:
    counts: dict[int, int] = {}
    expected = []
    for offset in sources:
        expected.append(f"{PARTITION}:{offset}:{counts.get(offset, 0)}")
        counts[offset] = counts.get(offset, 0) + 1
    assert ids([[offset] for offset in sources], dict.fromkeys(sources, time)) == expected
    origin = MessageOrigin.of(message(sources[0], time), CLUSTER)
    assert Sources.of([origin]) == Sources(lead=origin, suffix="")


@given(st.lists(st.lists(offsets, min_size=1, max_size=4), min_size=1, max_size=8))
def test_no_two_tasks_of_a_call_share_an_id(tasks: list[list[int]]) -> None:
    found = ids(tasks, {offset: 7 for each in tasks for offset in each})
    assert len(set(found)) == len(tasks)


@given(offset_sets, st.data())
def test_replays_of_the_same_messages_have_the_same_name(
    sources: frozenset[int], data: st.DataObject
) -> None:
    origins = [MessageOrigin.of(message(offset), CLUSTER) for offset in sources]
    places = st.lists(offsets, min_size=len(origins), max_size=len(origins), unique=True)
    replays = [
        message(place, 9, ((REPLAY_HEADER, str(origin).encode()),))
        for place, origin in zip(data.draw(places), origins, strict=True)
    ]
    assert Sources.of(MessageOrigin.of(one, CLUSTER) for one in replays) == Sources.of(origins)


@given(st.frozensets(offsets, min_size=100, max_size=200))
def test_a_delivery_id_stays_short_however_many_messages_there_are(sources: frozenset[int]) -> None:
    found = named(sources, dict.fromkeys(sources, 2**41))
    origin = Origin(message=found.lead, n=f"-{found.suffix}", hook="batch", index=0)
    assert len(origin.delivery_id()) < len(f"{found.lead}/-/batch/0") + 40


@given(
    st.text(max_size=60) | st.binary(max_size=60).map(lambda raw: raw.decode("utf-8", "replace"))
)
def test_a_header_that_is_no_origin_is_nobodys(text: str) -> None:
    header = (REPLAY_HEADER, text.encode())
    own = MessageOrigin.of(message(5), CLUSTER)
    found = MessageOrigin.of(message(5, headers=(header,)), CLUSTER)
    assert found == own or str(found) == text


@pytest.mark.parametrize(
    "text",
    [
        "main/other/3/5/7",
        "main/requests/3/5",
        "main/requests/3/5/7/8",
        "main/requests/-3/5/7",
        "main/requests/3/+5/7",
        "main/requests/3/05/7",
        "main/requests/3/5_0/7",
        "main/requests/3/\N{ARABIC-INDIC DIGIT FIVE}/7",
        "main/requests/3/ 5/7",
        "main/requests/2147483648/5/7",
        "main/requests/3/9223372036854775808/7",
        "main/requests/3/5/9223372036854775808",
        "main/requests/3/5/-9223372036854775809",
        "main/requests/3/5/-0",
        "/requests/3/5/7",
        f"{'m' * 64}/requests/3/5/7",
        "main/requests/3/5/7\n",
    ],
)
def test_a_header_of_another_topic_or_shape_does_not_count(text: str) -> None:
    record = message(90, 8, ((REPLAY_HEADER, text.encode()),))
    assert MessageOrigin.of(record, CLUSTER) == MessageOrigin.of(message(90, 8), CLUSTER)


@pytest.mark.parametrize("text", ["main/requests/0/0/-1", "fast/requests/2147483647/5/7"])
def test_a_header_of_the_own_topic_counts(text: str) -> None:
    record = message(90, 8, ((REPLAY_HEADER, text.encode()),))
    assert str(MessageOrigin.of(record, CLUSTER)) == text
