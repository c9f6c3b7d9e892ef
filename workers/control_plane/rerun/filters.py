"""Filters of a rerun: which failed messages are meant, as people write it, with named errors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime

from domain.failure import FailureKind
from domain.fingerprint import FINGERPRINT
from domain.masking import mask_text
from domain.origin import TASK_ID
from domain.paging import BadFilter
from domain.text_bounds import MAX_NAME, MAX_VALUE
from recorder.timestamps import EXPECTED, moment_of

MAX_PARTITION, MAX_OFFSET, MAX_EXIT_CODE = 2**31 - 1, 2**63 - 1, 2**31 - 1
MAX_KEY = 512
NAMES = (
    "failure", "exit_code", "label", "since", "until", "key", "partition", "message", "task",
    "again",
)  # fmt: skip
"""Names of the filters in forms, documents of the API and options of the command."""
_NUMBER = re.compile(r"-?\d{1,19}", re.ASCII)
_PLACE = re.compile(r"(\d{1,10}):(\d{1,19})", re.ASCII)
_TASK = re.compile(TASK_ID, re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Messages of a cluster that are to be run again; None and empty mean all that failed.

    ``since`` and ``until`` (left out) are about the time of the failure. ``failure`` is a kind or
    a failure group's fingerprint. ``key`` is the message's key as text. ``message`` is one message
    by ``(partition, offset)``, whatever became of it;
    ``task`` is one task's id, and its message. ``again``: those too whose rerun has not ended.
    ``written`` is all of it as it was asked for, secrets masked.
    """

    cluster: str
    failure: str = ""
    exit_code: int | None = None
    label: tuple[str, str] | None = None
    since: datetime | None = None
    until: datetime | None = None
    key: str = ""
    partition: int | None = None
    message: tuple[int, int] | None = None
    task: str = ""
    again: bool = False
    written: str = field(default="", compare=False)

    @property
    def place(self) -> tuple[int, int] | None:
        """Place of the one message that is meant; None: those that failed."""
        if self.message is not None or not self.task:
            return self.message
        partition, offset, _ = self.task.split(":")
        return int(partition), int(offset)

    def texts(self) -> dict[str, str]:
        """Return the filters as they are written, without those that are empty."""
        given = {each.name: getattr(self, each.name) for each in fields(self) if each.compare}
        found = {
            name: value
            for name, value in given.items()
            if value is not None and value is not False and value != ""
        }
        for name in ("since", "until"):
            if name in found:
                found[name] = found[name].isoformat()
        for name, sign in (("label", "="), ("message", ":")):
            if name in found:
                found[name] = sign.join(map(str, found[name]))
        return {name: "yes" if value is True else str(value) for name, value in found.items()}

    def __str__(self) -> str:
        """Return all in words, as it was asked for."""
        return self.written or "all that failed"


def filters_of(asked: Mapping[str, str], cluster: str, now: datetime) -> Filters:
    """Return the filters of texts by ``NAMES``. Raises BadFilter naming the field.

    Times are like ``2026-03-14T03:10`` (UTC unless it says) or an age before ``now`` like ``90m``.
    """
    given = {name: str(asked.get(name) or "").strip() for name in NAMES}
    if not cluster:
        raise BadFilter("cluster: expected one, because a rerun needs its source topic; got none")
    found = Filters(
        cluster=cluster,
        failure=_failure(given["failure"]),
        exit_code=_number("exit_code", given["exit_code"], -MAX_EXIT_CODE, MAX_EXIT_CODE),
        label=_label(given["label"]),
        since=_time("since", given["since"], now),
        until=_time("until", given["until"], now),
        key=_bounded("key", given["key"], MAX_KEY),
        partition=_number("partition", given["partition"], 0, MAX_PARTITION),
        message=_message(given["message"]),
        task=_task(given["task"]),
        again=_yes("again", given["again"]),
        written=mask_text(" ".join(f"{name}={text}" for name, text in given.items() if text)),
    )
    if found.since and found.until and found.since >= found.until:
        raise BadFilter(
            f"until: expected a time after since ({found.since.isoformat()}), "
            f"got {found.until.isoformat()}"
        )
    _alone(found)
    return found


def _alone(found: Filters) -> None:
    """Refuse filters beside the one message or task that is named."""
    one = [name for name in ("message", "task") if getattr(found, name)]
    others = [name for name in found.texts() if name not in ("cluster", "again", *one)]
    if one and (others or len(one) > 1):
        beside = others[0] if others else one[1]
        raise BadFilter(f"{beside}: expected nothing beside {one[0]}, which names the message")


def _failure(text: str) -> str:
    if not text or text in [kind.value for kind in FailureKind] or FINGERPRINT.fullmatch(text):
        return text
    known = ", ".join(FailureKind)
    raise BadFilter(f"failure: expected one of {known}, or a failure group, got {text[:40]}")


def _label(text: str) -> tuple[str, str] | None:
    if not text:
        return None
    name, sign, value = text.partition("=")
    if not name.strip() or not sign:
        raise BadFilter(f"label: expected name=value, got {text[:80]}")
    return _bounded("label", name.strip(), MAX_NAME), _bounded("label", value.strip(), MAX_VALUE)


def _time(name: str, text: str, now: datetime) -> datetime | None:
    if not text:
        return None
    found = moment_of(text, now)
    if found is None:
        raise BadFilter(f"{name}: expected {EXPECTED}, got {text[:40]}")
    return found


def _number(name: str, text: str, least: int, most: int) -> int | None:
    if not text:
        return None
    if _NUMBER.fullmatch(text) is None or not least <= int(text) <= most:
        raise BadFilter(f"{name}: expected a whole number from {least} to {most}, got {text[:40]}")
    return int(text)


def _message(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    found = _PLACE.fullmatch(text)
    if found is None or int(found[1]) > MAX_PARTITION or int(found[2]) > MAX_OFFSET:
        raise BadFilter(f"message: expected partition:offset, got {text[:80]}")
    return int(found[1]), int(found[2])


def _task(text: str) -> str:
    if not text:
        return ""
    if _TASK.fullmatch(text) is None or len(text) > 255:
        raise BadFilter(f"task: expected an id like 3:17:0, got {text[:80]}")
    _message(text.rpartition(":")[0])
    return text


def _yes(name: str, text: str) -> bool:
    if text.lower() not in ("", "yes", "no", "true", "false", "on"):
        raise BadFilter(f"{name}: expected yes or no, got {text[:40]}")
    return text.lower() in ("yes", "true", "on")


def _bounded(name: str, text: str, most: int) -> str:
    if len(text) > most:
        raise BadFilter(f"{name}: expected at most {most} characters, got {len(text):,}")
    if "\0" in text:
        raise BadFilter(f"{name}: expected text without NUL, got {text[:40]!r}")
    return text
