"""The handler's base: input model, defaults, overrides."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import BaseModel, ValidationError

from domain.failure import DeliveryError
from domain.task import Task
from workers.handler import (
    DeadLetter,
    FailureKind,
    Handler,
    Message,
    Pending,
    Retry,
    TaskFailure,
    overrides,
)


class Request(BaseModel):
    name: str


class Base(Handler[Request]):
    """Names the input model."""


class Heir(Base):
    """Inherits it."""

    def message_label(self, message: Message[Request]) -> str:
        return message.payload.name


def record(value: bytes | None) -> Message[None]:
    return Message(
        topic="t",
        partition=2,
        offset=9,
        key=None,
        value=value,
        headers=(),
        timestamp=0,
        payload=None,
    )


def failure(attempt: int) -> TaskFailure:
    return TaskFailure(task=Task(), kind=FailureKind.EXIT, detail="exit code 1", attempt=attempt)


def error(transient: bool) -> DeliveryError:
    return DeliveryError(
        sink="s", kind="kafka", transient=transient, attempt=1, payloads=(), detail="refused"
    )


def test_the_input_model_comes_from_the_generic_and_is_inherited() -> None:
    assert Base.input_model is Request
    assert Heir.input_model is Request


def test_parse_reads_json_into_the_model() -> None:
    assert Heir({}).parse(record(b'{"name": "a"}')) == Request(name="a")


def test_parse_refuses_null_and_bad_data() -> None:
    with pytest.raises(ValueError, match="null"):
        Heir({}).parse(record(None))
    with pytest.raises(ValidationError):
        Heir({}).parse(record(b"\xff"))


def test_arrange_must_be_written() -> None:
    with pytest.raises(TypeError, match="Base must define arrange"):
        asyncio.run(Base({}).arrange([], Pending(tasks={})))


def test_a_task_is_retried_and_then_dead_lettered() -> None:
    handler = Base({}, max_retries=2)
    assert isinstance(asyncio.run(handler.on_error(failure(2))), Retry)
    assert isinstance(asyncio.run(handler.on_error(failure(3))), DeadLetter)


def test_transient_delivery_errors_retry_and_others_dead_letter() -> None:
    assert asyncio.run(Base({}).on_delivery_error(error(True))) == Retry()
    assert asyncio.run(Base({}).on_delivery_error(error(False))) == DeadLetter(reason="refused")


def test_overrides_tells_own_hooks_from_defaults() -> None:
    assert overrides(Heir({}), "message_label")
    assert not overrides(Base({}), "message_label")
