"""Texts that others wrote, in Kafka, in addresses and in documents: read, or refused as such."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from domain.commit import CommitMetadata
from domain.masking import mask_args, mask_text
from domain.message import Message
from domain.origin import REPLAY_HEADER, MessageOrigin
from domain.trace_context import TRACEPARENT, traceparent_of
from drakkar_site.documents import MAX_LEVELS, BadDocument, read_document
from recorder.rows import MOST_JSON, bounded, to_json
from recorder.timestamps import moment_of, shifted, utc_at
from workers.control_plane.live.socket import cursor_of
from workers.runtime.probing import bounded as bounded_probe

leaves = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text()
    | st.sampled_from((10**400, 2**63, float("nan"), "\0", "\ud800", "x" * 9000))
)  # fmt: skip
trees = st.recursive(
    leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=15
)
METADATA = ("run", "left", "deaths", "mark", "running", "task", "alone", "suspect", "strikes",
            "lone", "lone_task", "lone_deaths", "paused", "began", "lost", "dead",
            "settled")  # fmt: skip


def written(value: Any) -> str:
    return json.dumps(value, default=str)


def is_read_or(refusal: type[Exception], read: Callable[[Any], Any], given_: Any) -> None:
    """Anything but a value or that refusal fails the test."""
    try:
        read(given_)
    except refusal:
        return


@given(
    st.text() | st.dictionaries(st.sampled_from(METADATA), leaves | st.lists(leaves)).map(written)
)
def test_the_metadata_of_a_commit_may_be_anybodys(text: str) -> None:
    found = CommitMetadata.decode(text)
    if found is not None:
        heir = CommitMetadata.inherit(found, "me")
        assert len(heir.encode()) <= 4095


@given(st.text() | st.lists(st.text() | st.integers().map(str), max_size=6).map("/".join))
def test_an_origin_is_what_we_wrote_or_none(text: str) -> None:
    try:
        assert str(MessageOrigin.parse(text)) == text
    except ValueError:
        return


@given(st.binary() | st.none(), st.integers(-1, 2**63 - 1))
def test_headers_of_any_bytes_give_an_identity(content: bytes | None, stamp: int) -> None:
    message = Message(
        topic="t", partition=0, offset=0, key=None, value=None, timestamp=stamp, payload=None,
        headers=((REPLAY_HEADER, content), (TRACEPARENT, content)),
    )  # fmt: skip
    origin = MessageOrigin.of(message, "main")
    assert MessageOrigin.parse(str(origin)) == origin
    assert traceparent_of(message) is None or content is not None


@given(st.binary() | trees.map(lambda tree: written(tree).encode()))
def test_a_document_is_read_or_refused_in_words(body: bytes) -> None:
    is_read_or(BadDocument, read_document, body)


def test_the_levels_of_a_document_are_counted() -> None:
    assert read_document(b"[" * MAX_LEVELS + b"]" * MAX_LEVELS) is not None
    deeper = b"[" * (MAX_LEVELS + 2) + b"]" * (MAX_LEVELS + 2)
    is_read_or(BadDocument, read_document, deeper)
    assert read_document(rb'["\\u0000", "\ud83d\ude00"]') == ["\\u0000", "\U0001f600"]


@given(st.text() | st.dictionaries(st.text() | st.uuids().map(str), leaves).map(written))
def test_a_cursor_is_one_of_ours_or_none(text: str) -> None:
    found = cursor_of(text)
    assert found is None or all(type(seq) is int for seq in found.values())


ages = st.builds("{}{}".format, st.integers(0, 999_999), st.sampled_from("smhd"))


@given(st.text() | st.datetimes().map(str) | ages, leaves)
def test_times_are_times_or_none(text: str, number: Any) -> None:
    now = datetime(2026, 3, 14, tzinfo=UTC)
    moment = moment_of(text, now)
    assert moment is None or moment.tzinfo is not None
    if text and text[-1] in "smhd" and text[:-1].isdecimal() and text.isascii():
        assert moment is None or moment <= now
    at = utc_at(number)
    if at is not None:
        assert shifted(at, number).tzinfo is not None


@settings(max_examples=50)
@given(trees)
def test_what_is_stored_has_a_bound_and_is_json(tree: Any) -> None:
    for most in (50, 2000, MOST_JSON["data"]):
        text = bounded(to_json({"it": tree}), most, "{}")
        assert len(text) <= most
        assert isinstance(json.loads(text), dict)


@settings(max_examples=50)
@given(trees)
def test_a_probe_tells_what_postgres_takes(tree: Any) -> None:
    text = json.dumps(bounded_probe(tree), allow_nan=False, ensure_ascii=False)
    assert "\\u0000" not in text
    assert text.encode()


@given(st.lists(st.text() | st.sampled_from(("--token", "a://b:c@d", "token=x", "-H", "x@y://:"))))
def test_a_masked_command_line_keeps_its_length(args: list[str]) -> None:
    assert len(mask_args(args)) == len(args)


@given(st.text(alphabet="ab:/@ ."), st.from_regex(r"[a-z0-9]{6,10}", fullmatch=True))
def test_no_password_of_an_address_is_left(around: str, password: str) -> None:
    found = mask_text(f"{around} db://user:{password}@host")
    assert f"user:{password}" not in found
