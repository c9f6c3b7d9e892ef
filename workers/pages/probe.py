"""``/probe``: one message through the handler of a live worker, without sinks and commits."""

from __future__ import annotations

import base64
import binascii
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods

from domain.message import Header
from sinks.backends.kafka import read_record
from sinks.base import SinkError
from sinks.letter_rows import headers_of
from sinks.models import DeadLetter
from sinks.record_headers import record_headers
from workers.config import ClusterConfig
from workers.control import MAX_PROBE_BYTES, Action
from workers.models import ControlRequest, ControlState
from workers.pages.control import FINAL, LOOK
from workers.queries import beats, is_live, latest
from workers.requests import NoTarget, ask

READ_SECONDS = 5.0
ENCODINGS = ("text", "base64")


class BadMessage(ValueError):
    """A message that cannot be probed; the text names the field and what was expected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A message as it stands in the form; contents are text or base64, as ``encoding`` says."""

    encoding: str = "text"
    partition: str = "0"
    offset: str = "0"
    timestamp: str = "0"
    has_key: bool = False
    key: str = ""
    value: str = ""
    headers: str = ""

    @classmethod
    def of(
        cls, place: tuple[int, int, int], key: bytes | None, value: bytes | None,
        headers: Sequence[Header],
    ) -> Form:  # fmt: skip
        """The form of a message; base64 where a part of it is not text."""
        parts = [key or b"", value or b"", *(content or b"" for _, content in headers)]
        is_text = all(_is_line(part) for part in (parts[0], *parts[2:])) and _is_text(parts[1])
        write = bytes.decode if is_text else _base64
        return cls(
            encoding=ENCODINGS[not is_text],
            partition=str(place[0]),
            offset=str(place[1]),
            timestamp=str(place[2]),
            has_key=key is not None,
            key=write(key or b""),
            value=write(value or b""),
            headers="\n".join(f"{name}={write(content or b'')}" for name, content in headers),
        )

    def arguments(self) -> dict[str, Any]:
        """As the action takes them. Raises BadMessage."""
        lines = [line for line in self.headers.splitlines() if line.strip()]
        return {
            "partition": self.partition,
            "offset": self.offset,
            "timestamp": self.timestamp,
            "key": self._read("key", self.key) if self.has_key or self.key else None,
            "value": self._read("value", self.value),
            "headers": [self._header(line) for line in lines],
        }

    def _header(self, line: str) -> tuple[str, str]:
        name, equals, content = line.partition("=")
        if not name or not equals:
            raise BadMessage(f"headers: expected NAME=VALUE in each line, got {line[:60]}")
        return name.strip(), self._read("headers", content)

    def _read(self, name: str, text: str) -> str:
        """The content as base64. Raises BadMessage."""
        # A form sends line ends as CRLF; what holds a CR itself is shown as base64.
        content = text.replace("\r\n", "\n").encode("utf-8", "surrogatepass")
        if self.encoding == "base64":
            try:
                content = base64.b64decode(text, validate=True)
            except (binascii.Error, ValueError):
                raise BadMessage(f"{name}: expected base64, got {text[:40]}") from None
        if len(content) > MAX_PROBE_BYTES * 3 // 4:
            most = MAX_PROBE_BYTES * 3 // 4
            raise BadMessage(f"{name}: expected {most} bytes or less, got {len(content)}")
        return _base64(content)


@require_http_methods(["GET", "HEAD", "POST"])
def probe(request: HttpRequest) -> HttpResponse:
    """The form, a message to look at first (``letter`` or ``at``), or a request's result."""
    form, cluster, error, row = Form(), _clean(request.GET, "cluster"), "", None
    try:
        if request.method == "POST":
            form, cluster = _form(request.POST), _clean(request.POST, "of")
            asked = _ask(request, cluster, form)
            query = f"?request={asked.id}&cluster={cluster}"
            return HttpResponseRedirect(reverse("probe") + query)
        form, cluster, row = _given(request.GET, cluster)
    except (BadMessage, ValueError, NoTarget, SinkError) as exc:
        error = str(exc)
    known = _clusters()
    cluster = cluster or next(iter(known), "")
    context = {
        "form": asdict(form),
        "of": cluster,
        "known": list(known),
        "encodings": ENCODINGS,
        "worker_asked": _worker(cluster, _clean(request.GET, "worker")),
        "error": error,
        "key": uuid.uuid4().hex,
        "row": row,
        "status": LOOK[ControlState(row.state)] if row else "",
        "is_waiting": row is not None and row.state not in FINAL,
        "most_kib": MAX_PROBE_BYTES * 3 // 4 // 1024,
    }
    return render(request, "probe.html", context, status=400 if error else 200)


def _given(asked: QueryDict, cluster: str) -> tuple[Form, str, ControlRequest | None]:
    """The form filled in from a letter, a place, or the message of a request before."""
    if text := asked.get("request", ""):
        row = get_object_or_404(ControlRequest, id=_uuid(text), action=Action.PROBE)
        return _of_arguments(row.arguments), row.cluster, row
    if text := asked.get("letter", ""):
        letter = get_object_or_404(DeadLetter, pk=_number(text, "letter"))
        return _of_letter(letter), letter.cluster, None
    if text := asked.get("at", ""):
        return _of_place(text, cluster), cluster, None
    return Form(), cluster, None


def _of_arguments(kept: Mapping[str, Any]) -> Form:
    headers = [(name, _bytes(content)) for name, content in kept.get("headers") or []]
    place = (kept.get("partition", 0), kept.get("offset", 0), kept.get("timestamp", 0))
    return Form.of(place, _bytes(kept.get("key")), _bytes(kept.get("value")), headers)


def _of_letter(letter: DeadLetter) -> Form:
    if not letter.is_whole:
        raise BadMessage(
            f"letter: only the first 64 KiB of its {letter.size_bytes} bytes are kept here; "
            "manage.py probe_message takes a file"
        )
    stamp = letter.origin.rpartition("/")[2]
    place = (letter.partition, letter.offset, int(stamp) if stamp.isdigit() else 0)
    key, value = (None if each is None else bytes(each) for each in (letter.key, letter.value))
    return Form.of(place, key, value, headers_of(letter))


def _of_place(text: str, cluster: str) -> Form:
    """A message of the cluster's source topic, ``partition:offset``. Raises SinkError."""
    number, colon, offset = text.partition(":")
    if not colon:
        raise BadMessage(f"at: expected partition:offset, got {text[:40]}")
    place, config = (_number(number, "at"), _number(offset, "at")), _clusters().get(cluster)
    if config is None:
        raise BadMessage(f"cluster: expected one of {', '.join(_clusters())}, got {cluster[:40]}")
    found = read_record(
        config.kafka.topic, *place, brokers=config.kafka.brokers,
        client={"log_level": 0, **config.kafka.client}, timeout_seconds=READ_SECONDS,
    )  # fmt: skip
    if found is None:
        raise BadMessage(f"at: {config.kafka.topic} does not hold {text[:40]} any more")
    message: Any = found
    stamp = max(0, message.timestamp()[1])
    return Form.of((*place, stamp), message.key(), message.value(), record_headers(message))


def _form(asked: QueryDict) -> Form:
    encoding = asked.get("encoding", "text")
    if encoding not in ENCODINGS:
        raise BadMessage(f"encoding: expected text or base64, got {encoding[:40]}")
    names = ("partition", "offset", "timestamp")
    places = {name: asked.get(name, "").strip() or "0" for name in names}
    contents = {name: asked.get(name, "") for name in ("key", "value", "headers")}
    return Form(encoding=encoding, has_key="has_key" in asked, **places, **contents)


def _ask(request: HttpRequest, cluster: str, form: Form) -> ControlRequest:
    """Raises BadMessage, ValueError and NoTarget."""
    key = request.POST.get("key_of_form", "")
    if len(key) != len(uuid.UUID(int=0).hex) or not key.isalnum():
        raise BadMessage("key_of_form: expected the one of the form; open this page again")
    worker = _worker(cluster, _clean(request.POST, "worker"))
    if not worker:
        raise NoTarget(f"no worker of cluster {cluster[:63]} lives: use manage.py probe_message")
    user = request.user if isinstance(request.user, User) else None
    return ask(
        user=user,
        actor=request.user.get_username(),
        cluster=cluster,
        worker=worker,
        action=Action.PROBE,
        arguments=form.arguments(),
        key=key,
    )


def _worker(cluster: str, worker: str) -> str:
    """A live worker of the cluster: the one asked for, else the one with least to do."""
    live = [beat for beat in latest(beats(cluster, worker)).values() if is_live(beat)]
    free = min(live, key=lambda beat: beat.pool.get("busy") or 0, default=None)
    return "" if free is None else free.run.worker


def _clusters() -> Mapping[str, ClusterConfig]:
    return settings.DRAKKAR.clusters if settings.DRAKKAR else {}


def _clean(asked: QueryDict, name: str) -> str:
    return asked.get(name, "").replace("\0", "").strip()


def _number(text: str, name: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise BadMessage(f"{name}: expected a whole number, got {text[:40]}")
    return int(text)


def _uuid(text: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError:
        raise BadMessage(f"request: expected the id of one, got {text[:40]}") from None


def _bytes(content: str | None) -> bytes | None:
    return None if content is None else base64.b64decode(content)


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _is_text(content: bytes) -> bool:
    """Whether a text field gives back the same bytes."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return False
    return "\r" not in text and "\0" not in text and not text.startswith("\n")


def _is_line(content: bytes) -> bool:
    return _is_text(content) and len(content.decode().splitlines()) <= 1
