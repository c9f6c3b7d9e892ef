"""``/probe``: one message through the handler of a live worker, without sinks and commits."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods

from domain.message import MAX_CONTENT_BYTES
from domain.text_bounds import text_in
from sinks.base import SinkError
from sinks.message_form import (
    ENCODINGS,
    BadMessage,
    Form,
    form_of,
    form_of_letter,
)
from sinks.models import DeadLetter
from sinks.record_headers import record_headers
from sinks.record_reader import read_record
from workers.config import ClusterConfig
from workers.control import Action
from workers.control_plane.pages.control import FINAL, LOOK
from workers.control_plane.queries import least_busy
from workers.control_plane.requests import Asker, NoTarget, ask, asked_before, found
from workers.models import ControlRequest, ControlState

READ_SECONDS = 5.0


@require_http_methods(["GET", "HEAD", "POST"])
def probe(request: HttpRequest) -> HttpResponse:
    """Return the form, a message to look at first (``letter`` or ``at``), or a request's result."""
    form, cluster, error, row = Form(), text_in(request.GET, "cluster"), "", None
    try:
        if request.method == "POST":
            form, cluster = form_of(request.POST), text_in(request.POST, "of")
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
        "worker_asked": least_busy(cluster, text_in(request.GET, "worker")) or "",
        "error": error,
        "key": uuid.uuid4().hex,
        "row": row,
        "status": LOOK[ControlState(row.state)] if row else "",
        "is_waiting": row is not None and row.state not in FINAL,
        "most_kib": MAX_CONTENT_BYTES // 1024,
    }
    return render(request, "probe.html", context, status=400 if error else 200)


def _given(asked: QueryDict, cluster: str) -> tuple[Form, str, ControlRequest | None]:
    """Return the form filled in from a letter, a place, or the message of a request before."""
    if text := asked.get("request", ""):
        row = found(_uuid(text))
        if row is None or row.action != Action.PROBE:
            raise Http404("There is no such probe")
        return _of_arguments(row.arguments), row.cluster, row
    if text := asked.get("letter", ""):
        letter = get_object_or_404(DeadLetter, pk=_number(text, "letter"))
        return form_of_letter(letter), letter.cluster, None
    if text := asked.get("at", ""):
        return _of_place(text, cluster), cluster, None
    return Form(), cluster, None


def _of_arguments(kept: Mapping[str, Any]) -> Form:
    headers = [(name, _bytes(content)) for name, content in kept.get("headers") or []]
    place = (kept.get("partition", 0), kept.get("offset", 0), kept.get("timestamp", 0))
    return Form.of(place, _bytes(kept.get("key")), _bytes(kept.get("value")), headers)


def _of_place(text: str, cluster: str) -> Form:
    """Read a message of the cluster's source topic, ``partition:offset``. Raises SinkError."""
    number, colon, offset = text.partition(":")
    if not colon:
        raise BadMessage(f"at: expected partition:offset, got {text[:40]}")
    place, config = (_number(number, "at"), _number(offset, "at")), _clusters().get(cluster)
    if config is None:
        raise BadMessage(f"cluster: expected one of {', '.join(_clusters())}, got {cluster[:40]}")
    record = read_record(
        config.kafka.topic, *place, brokers=config.kafka.brokers,
        client={"log_level": 0, **config.kafka.client}, timeout_seconds=READ_SECONDS,
    )  # fmt: skip
    if record is None:
        raise BadMessage(f"at: {config.kafka.topic} does not hold {text[:40]} any more")
    message: Any = record
    stamp = max(0, message.timestamp()[1])
    return Form.of((*place, stamp), message.key(), message.value(), record_headers(message))


def _ask(request: HttpRequest, cluster: str, form: Form) -> ControlRequest:
    """Raises BadMessage, ValueError and NoTarget."""
    key = request.POST.get("key_of_form", "")
    if len(key) != len(uuid.UUID(int=0).hex) or not key.isalnum():
        raise BadMessage("key_of_form: expected the one of the form; open this page again")
    before = asked_before(key)
    worker = before.worker if before else least_busy(cluster, text_in(request.POST, "worker"))
    if not worker:
        if cluster not in _clusters():
            known = ", ".join(_clusters()) or "none"
            raise NoTarget(
                f"cluster: expected one that this site's configuration knows ({known}) or that has "
                f"a live worker, got {cluster[:63]}"
            )
        raise NoTarget(f"no worker of cluster {cluster[:63]} lives: use manage.py probe_message")
    return ask(
        Asker.of(request),
        cluster=cluster,
        worker=worker,
        action=Action.PROBE,
        arguments=form.arguments(),
        key=key,
    )


def _clusters() -> Mapping[str, ClusterConfig]:
    return settings.DRAKKAR.clusters if settings.DRAKKAR else {}


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
