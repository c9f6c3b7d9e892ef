"""Sink kind ``http``: one request a payload; one session a lane thread.

A payload is stored when the receiver answers 2xx. Its delivery id goes along as
``Idempotency-Key``, so that a receiver can drop what it has already; with a ``delivery_key``, sink
and path follow it.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import ClassVar, Literal
from urllib.parse import quote, urljoin, urlsplit, urlunsplit

import requests
from pydantic import Field, field_validator
from urllib3.exceptions import HTTPError

from domain.masking import mask_text
from domain.origin import is_own_header
from domain.payload import HttpPayload
from sinks.base import (
    ConfigError,
    Delivery,
    PermanentError,
    SinkError,
    TransientError,
    UnknownError,
    refusal,
    repetition_id,
)
from sinks.config import SinkConfig
from sinks.guarded_http import AddressRefused, CheckedConnector, guarded_session
from sinks.json_form import NotJson, encode_json
from sinks.registry import SinkContext, SinkKind

# What an answer means. 2xx is stored; what stands in no table is permanent up to 499, transient
# from 500. 401, 403 and 407 speak of the sink's credentials, not of the data; 307 and 308 are
# followed, any other redirect would turn the request into a GET.
TRANSIENT_STATUSES = frozenset({408, 421, 425, 429})
CONFIG_STATUSES = frozenset({401, 403, 407})
FOLLOWED_STATUSES = frozenset({307, 308})

MAX_REDIRECTS = 5
MAX_ANSWER_BYTES = 64 * 1024
SHOWN_CHARACTERS = 200
MAX_RETRY_AFTER_SECONDS = 300.0
MAX_REMEMBERED = 10_000
RESERVED_HEADERS = frozenset(
    {"connection", "content-length", "host", "idempotency-key", "transfer-encoding"}
)


def _reserved(headers: Mapping[str, str]) -> list[str]:
    return sorted(name for name in headers if name.lower() in RESERVED_HEADERS)


class HttpSinkConfig(SinkConfig):
    """Keys of an http sink. ``timeout_seconds`` is for a whole request, redirects and answer
    included; ``max_batch`` is 1 because each payload is a request, and so fails alone."""

    max_batch: int = Field(1, ge=1, le=100_000)
    url: str = Field(min_length=1, max_length=8192)
    method: Literal["POST", "PUT", "PATCH"] = "POST"
    headers: dict[str, str] = Field(default_factory=dict)
    concurrency: int = Field(4, ge=1, le=64)
    give_up_after_seconds: float | None = Field(None, gt=0)
    allow_private: bool = False
    ca_file: str | None = None

    @property
    def lane_threads(self) -> int:
        """One session a thread."""
        return self.concurrency

    @field_validator("url")
    @classmethod
    def _is_http(cls, url: str) -> str:
        parts = urlsplit(url)
        is_http = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        if not is_http or parts.fragment:
            raise ValueError("expected http://host/path or https://host/path without a fragment")
        return url

    @field_validator("headers")
    @classmethod
    def _are_free(cls, headers: dict[str, str]) -> dict[str, str]:
        if taken := _reserved(headers):
            raise ValueError(f"expected no header that the sink sets itself, got {taken}")
        return headers


def judge(status: int, detail: str, retry_after_seconds: float | None) -> SinkError:
    """An answer other than 2xx in our words."""
    if status in CONFIG_STATUSES:
        return ConfigError(f"{detail}; check the sink's headers and rights")
    if 300 <= status < 400:
        return ConfigError(f"{detail}; url must name the address it was moved to")
    if status in TRANSIENT_STATUSES or status >= 500:
        return TransientError(detail, retry_after_seconds)
    return PermanentError(detail)


def retry_after_seconds(value: str | None, now: datetime) -> float | None:
    """``Retry-After`` (RFC 9110, 10.2.3: seconds or a date), at most MAX_RETRY_AFTER_SECONDS."""
    if value is None:
        return None
    try:
        if value.strip().isdecimal():
            wished = float(value)
        else:
            moment = parsedate_to_datetime(value)
            wished = (moment.replace(tzinfo=moment.tzinfo or UTC) - now).total_seconds()
    except Exception:  # noqa: BLE001 - the header is the receiver's: whatever it says, we go on
        return None
    return min(max(wished, 0.0), MAX_RETRY_AFTER_SECONDS)


def join(url: str, path: str) -> str:
    """``path``, plain text, under the path of ``url``; its query stays. Raises ValueError."""
    if not path:
        return url
    segments = path.strip("/").split("/")
    if {".", ".."} & set(segments) or any(ord(c) < 32 or c == "\\" for c in path):
        raise ValueError("path: expected segments without '.', '..', backslash or control letters")
    parts = urlsplit(url)
    below = parts.path.rstrip("/") + "/" + quote(path.lstrip("/"), safe="/:@!$&'()*+,;=-._~")
    return urlunsplit(parts._replace(path=below))


class FailureTimer:
    """Since when each delivery of a sink fails; shared by the threads of its lane."""

    def __init__(self) -> None:
        self._since: OrderedDict[str, float] = OrderedDict()
        self._lock = threading.Lock()

    def failed(self, delivery_id: str, now: float) -> float:
        """For how many seconds it has been failing, up to ``now``."""
        with self._lock:
            since = self._since.setdefault(delivery_id, now)
            while len(self._since) > MAX_REMEMBERED:
                self._since.popitem(last=False)
            return now - since

    def ended(self, delivery_id: str) -> None:
        """End a payload: it is stored or refused."""
        with self._lock:
            self._since.pop(delivery_id, None)


FAILURE_TIMERS: defaultdict[tuple[str, str], FailureTimer] = defaultdict(FailureTimer)
"""By cluster and sink: a retry may come to another thread than the first attempt."""


@dataclass(frozen=True, slots=True)
class Request:
    """A payload's request, as it was asked for (redirects repeat that) and as it is sent."""

    repetition_id: str
    asked: requests.Request
    prepared: requests.PreparedRequest


class HttpSink:
    """Sink that sends payloads by HTTP (module's docstring)."""

    kind: ClassVar[str] = "http"

    def __init__(self, config: HttpSinkConfig, context: SinkContext) -> None:
        self._config = config
        self._failure_timer = FAILURE_TIMERS[context.cluster, context.name]
        self._connector = CheckedConnector(allow_private=config.allow_private)
        self._session = guarded_session(self._connector)
        self._session.verify = config.ca_file or True

    def open(self) -> None:
        """Ask for OPTIONS, without ``headers``: any answer shows that HTTP is spoken at a permitted
        address. Raises TransientError or ConfigError."""
        self._connector.allow(self._config.timeout_seconds)
        try:
            asked = self._prepared(requests.Request("OPTIONS", self._config.url))
            with self._answer(asked) as answer:
                _bounded_text(answer)
        except (PermanentError, UnknownError) as exc:
            raise ConfigError(f"url: {exc}") from exc

    def encode(self, delivery: Delivery) -> Request:
        """Return the request of a payload. Raises PermanentError naming the field."""
        payload = delivery.payload
        assert isinstance(payload, HttpPayload)
        request = self._request(delivery, payload)
        try:
            prepared = self._session.prepare_request(request)
            for name, text in prepared.headers.items():
                _check_sendable(name)
                _check_sendable(text)
        except (requests.exceptions.InvalidHeader, UnicodeError) as exc:
            raise refusal("headers", exc) from exc
        except (requests.RequestException, ValueError) as exc:
            raise refusal("path", exc) from exc
        return Request(request.headers["Idempotency-Key"], request, prepared)

    def send(self, batch: Sequence[Request]) -> None:
        """A request each, in order; see ``Sink.send``."""
        stored: list[int] = []
        refused: dict[int, PermanentError] = {}
        for index, request in enumerate(batch):
            try:
                self._send(request)
            except PermanentError as exc:
                refused[index] = exc
            except (TransientError, ConfigError, UnknownError) as exc:
                self._session.close()  # a kept connection may lead to a server of before
                is_first = not stored and not refused
                self._wait_or_give_up(request.repetition_id, exc, is_first=is_first)
                exc.stored_indices = tuple(stored)
                raise
            else:
                stored.append(index)
            self._failure_timer.ended(request.repetition_id)
        if refused:
            raise PermanentError(str(next(iter(refused.values()))), tuple(refused))

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def _wait_or_give_up(self, request_id: str, error: SinkError, *, is_first: bool) -> None:
        """Raises PermanentError when it failed too long, and nothing of the batch ended well."""
        limit = self._config.give_up_after_seconds
        if limit is None or isinstance(error, ConfigError):
            return
        failing = self._failure_timer.failed(request_id, time.monotonic())
        if failing >= limit and is_first:
            raise PermanentError(f"gave up after {failing:.1f} s: {error}") from error

    def _send(self, request: Request) -> None:
        """One payload, redirects followed. Raises a SinkError unless it is stored."""
        self._connector.allow(self._config.timeout_seconds)
        asked, prepared = request.asked, request.prepared
        for _ in range(MAX_REDIRECTS + 1):
            moved_to = self._exchange(prepared)
            if moved_to is None:
                return
            asked = self._followed(asked, moved_to)
            prepared = self._prepared(asked)
        raise ConfigError(f"{_place(asked.url)}: more than {MAX_REDIRECTS} redirects")

    def _prepared(self, asked: requests.Request) -> requests.PreparedRequest:
        """A request of ours, or one a receiver redirected. Raises ConfigError."""
        try:
            return self._session.prepare_request(asked)
        except (requests.RequestException, ValueError) as exc:
            raise ConfigError(f"{_place(asked.url)}: {_reason(exc)}") from exc

    def _request(self, delivery: Delivery, payload: HttpPayload) -> requests.Request:
        if taken := _reserved(payload.headers):
            raise PermanentError(f"headers: expected none that the sink sets itself, got {taken}")
        body, own = _body(payload)
        own["Idempotency-Key"] = _header_text(repetition_id(delivery, payload.path.strip("/")))
        if delivery.traceparent:
            own["traceparent"] = delivery.traceparent
        headers = {name: text for name, text in payload.headers.items() if not is_own_header(name)}
        given = {**self._config.headers, **headers}
        names = {name.lower() for name in given}
        own = {name: value for name, value in own.items() if name.lower() not in names}
        try:
            url = join(self._config.url, payload.path)
        except UnicodeError as exc:
            raise refusal("path", exc) from exc
        except ValueError as exc:
            raise PermanentError(str(exc)) from exc
        return requests.Request(self._config.method, url, headers={**own, **given}, data=body)

    def _exchange(self, request: requests.PreparedRequest) -> str | None:
        """None when stored, else where to send the same again. Raises SinkError."""
        with self._answer(request) as answer:
            return self._verdict(answer, f"{request.method} {_place(request.url)}")

    def _answer(self, request: requests.PreparedRequest) -> requests.Response:
        """Status and headers; the body is still to come. Raises SinkError."""
        place = f"{request.method} {_place(request.url)}"
        try:
            return self._session.send(
                request,
                allow_redirects=False,
                stream=True,
                timeout=self._config.timeout_seconds,
            )
        except AddressRefused as exc:
            raise ConfigError(f"{place}: {exc}") from exc
        except requests.exceptions.SSLError as exc:
            raise ConfigError(f"{place}: TLS: {_reason(exc)}") from exc
        except (requests.RequestException, OSError, HTTPError) as exc:
            known = UnknownError if isinstance(exc, ValueError) else TransientError
            raise known(f"{place}: {_reason(exc)}") from exc

    def _verdict(self, answer: requests.Response, place: str) -> str | None:
        text = _bounded_text(answer)
        status = answer.status_code
        if 200 <= status < 300:
            return None
        if status in FOLLOWED_STATUSES and "location" in answer.headers:
            return answer.headers["location"]
        wished = retry_after_seconds(answer.headers.get("retry-after"), datetime.now(UTC))
        raise judge(status, f"{place}: {status} {answer.reason}: {text}".rstrip(": "), wished)

    def _followed(self, request: requests.Request, location: str) -> requests.Request:
        """Return the request elsewhere; another origin does not get the configured headers."""
        old = urlsplit(str(request.url))
        try:
            url = urljoin(str(request.url), location)
            new, _ = urlsplit(url), urlsplit(url).port
        except ValueError as exc:
            raise ConfigError(f"{_place(request.url)}: redirected to no URL: {exc}") from exc
        if new.scheme not in ("http", "https") or (old.scheme, new.scheme) == ("https", "http"):
            raise ConfigError(f"{_place(request.url)}: a redirect to {new.scheme} is not followed")
        headers = dict(request.headers)
        if (old.scheme, old.netloc) != (new.scheme, new.netloc):
            kept = ("content-type", "idempotency-key", "traceparent")
            headers = {name: text for name, text in headers.items() if name.lower() in kept}
        return requests.Request(request.method, url, headers=headers, data=request.data)


def _body(payload: HttpPayload) -> tuple[bytes, dict[str, str]]:
    if payload.body is not None:
        return payload.body, {"Content-Type": "application/octet-stream"}
    try:
        return encode_json(payload.json, "json"), {"Content-Type": "application/json"}
    except NotJson as exc:
        raise PermanentError(str(exc)) from exc


def _check_sendable(text: str | bytes) -> None:
    """Raises UnicodeError for what the protocol has no bytes for."""
    if isinstance(text, str):
        text.encode("latin-1")


def _header_text(text: str) -> str:
    """Percent-encode what a header cannot hold, and the percent sign."""
    return quote(text, safe="/:.,=+@| ", errors="surrogatepass")


def _bounded_text(answer: requests.Response) -> str:
    """Return the start of the body. What does not come in time or exceeds the bound is not waited
    for."""
    try:
        content = answer.raw.read(MAX_ANSWER_BYTES, decode_content=False)
    except Exception as exc:  # noqa: BLE001 - the status is in: the rest is only for people
        return f"(body unread: {type(exc).__name__})"
    text: str = content[: 4 * SHOWN_CHARACTERS].decode("utf-8", "replace")
    return mask_text(" ".join(text.split())[:SHOWN_CHARACTERS])


def _place(url: object) -> str:
    """Return the origin, for people: the rest of a webhook's URL is often its secret."""
    parts = urlsplit(str(url))
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _reason(error: BaseException) -> str:
    """Return the innermost cause: the library's own texts repeat the URL with its query."""
    while inner := error.__cause__ or (None if error.__suppress_context__ else error.__context__):
        error = inner
    return f"{type(error).__name__}: {error}"


KIND = SinkKind(name="http", config=HttpSinkConfig, payload=HttpPayload, build=HttpSink)
