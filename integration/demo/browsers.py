"""Read-only looks into the demo's MongoDB and Redis, and the way to its Kafka topics.

``python -m integration.demo.browsers`` serves three loopback ports: collections with their last
documents, keys with their times to live, and a redirect to the control plane's topics. Behind HTTP
basic authentication: user ``admin``, the password of ``BROWSERS_PASSWORD``.
"""

from __future__ import annotations

import argparse
import base64
import hmac
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from html import escape
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from bson import json_util
from pymongo import DESCENDING, MongoClient
from pymongo.errors import PyMongoError
from redis import Redis, RedisError

from integration.services.ports import LOOPBACK

USER = "admin"
ROWS = 100
SHOWN_CHARACTERS = 2000
WAIT_MS = 2000
IDLE_SECONDS = 30.0

Query = Mapping[str, str]
Page = Callable[[Query], str]
"""The body of a page for a query. Raises LookupError for what is not there."""


def page(title: str, body: str) -> str:
    """A whole document; the body is escaped already."""
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title>"
        f"<body><h1>{escape(title)}</h1>{body}</body></html>"
    )


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table; cells are escaped already."""
    heads = "".join(f"<th align=left>{escape(one)}</th>" for one in head)
    lines = "".join(
        "<tr>" + "".join(f"<td valign=top>{cell}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table cellpadding=6><tr>{heads}</tr>{lines}</table>"


def cut(text: str) -> str:
    """Escaped, at most 2000 characters of it."""
    more = " …" if len(text) > SHOWN_CHARACTERS else ""
    return f"<pre>{escape(text[:SHOWN_CHARACTERS])}{more}</pre>"


class MongoPages:
    """Collections of one database, and the last documents of one."""

    def __init__(self, uri: str, database: str) -> None:
        self._client: MongoClient[dict[str, Any]] = MongoClient(
            uri, serverSelectionTimeoutMS=WAIT_MS, socketTimeoutMS=WAIT_MS
        )
        self._database = self._client[database]

    def close(self) -> None:
        """Let go of the server."""
        self._client.close()

    def __call__(self, query: Query) -> str:
        """Raises LookupError, and PyMongoError when the server is away."""
        names = sorted(self._database.list_collection_names())
        if "collection" not in query:
            rows = (
                (
                    f'<a href="?collection={quote(name)}">{escape(name)}</a>',
                    str(self._database[name].estimated_document_count()),
                )
                for name in names
            )
            return page(f"MongoDB {self._database.name}", table(("collection", "documents"), rows))
        name = query["collection"]
        if name not in names:
            raise LookupError(f"collection: expected one of {', '.join(names)}, got {name!r}")
        last = self._database[name].find().sort("$natural", DESCENDING).limit(ROWS)
        documents = [(cut(json_util.dumps(document, indent=1)),) for document in last]
        return page(f"{name}: the last {ROWS} documents", table(("document",), documents))


class RedisPages:
    """Keys by pattern with type, time to live and value."""

    def __init__(self, url: str) -> None:
        seconds = WAIT_MS / 1000
        self._client: Any = Redis.from_url(
            url, socket_timeout=seconds, socket_connect_timeout=seconds, decode_responses=False
        )

    def close(self) -> None:
        """Let go of the server."""
        self._client.close()

    def __call__(self, query: Query) -> str:
        """Raises RedisError when the server is away."""
        pattern = query.get("match", "*")[:200]
        _, keys = self._client.scan(0, match=pattern, count=ROWS * 10)
        rows = [self._row(bytes(key)) for key in sorted(keys)[:ROWS]]
        form = (
            f'<form>keys like <input name=match value="{escape(pattern, quote=True)}"></form>'
            f"<p>{self._client.dbsize()} keys in all, at most {ROWS} shown.</p>"
        )
        return page("Redis", form + table(("key", "type", "seconds to live", "value"), rows))

    def _row(self, key: bytes) -> tuple[str, str, str, str]:
        kind = self._client.type(key).decode()
        seconds = int(self._client.ttl(key))
        left = str(seconds) if seconds >= 0 else "for ever"
        return escape(key.decode("utf-8", "replace")), kind, left, cut(self._value(key, kind))

    def _value(self, key: bytes, kind: str) -> str:
        reads: dict[str, Callable[[], Any]] = {
            "string": lambda: self._client.getrange(key, 0, SHOWN_CHARACTERS),
            "hash": lambda: self._client.hscan(key, count=ROWS)[1],
            "list": lambda: self._client.lrange(key, 0, ROWS),
            "set": lambda: self._client.sscan(key, count=ROWS)[1],
            "zset": lambda: self._client.zrange(key, 0, ROWS, withscores=True),
        }
        value = reads[kind]() if kind in reads else ""
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


class Browser(ThreadingHTTPServer):
    """One port: a page, or a redirect where there is none."""

    daemon_threads = True

    def __init__(self, port: int, password: str, show: Page | None, target: str = "") -> None:
        super().__init__((LOOPBACK, port), Answer)
        secret = base64.b64encode(f"{USER}:{password}".encode()).decode()
        self.expected = f"Basic {secret}"
        self.show = show
        self.target = target


class Answer(BaseHTTPRequestHandler):
    """GET only; nothing here writes."""

    server: Browser
    timeout = IDLE_SECONDS

    def do_GET(self) -> None:
        """Show the page, or send the browser on."""
        if self.server.show is None:
            self._send(HTTPStatus.FOUND, "", Location=self.server.target)
        elif not hmac.compare_digest(self.headers.get("Authorization", ""), self.server.expected):
            challenge = 'Basic realm="Drakkar demo"'
            self._send(HTTPStatus.UNAUTHORIZED, "Sign in.", **{"WWW-Authenticate": challenge})
        else:
            self._show(self.server.show)

    def _show(self, show: Page) -> None:
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        try:
            self._send(HTTPStatus.OK, show(query))
        except LookupError as exc:
            self._send(HTTPStatus.NOT_FOUND, page("Not found", escape(str(exc))))
        except (PyMongoError, RedisError) as exc:
            self._send(HTTPStatus.SERVICE_UNAVAILABLE, page("Away", escape(str(exc))))

    def _send(self, status: HTTPStatus, text: str, **headers: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", "default-src 'none'; form-action 'self'")
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Queries may name keys: nothing is logged."""


def _lead(text: str) -> tuple[int, str]:
    port, equals, url = text.partition("=")
    if not port.isdigit() or not equals or not url:
        raise argparse.ArgumentTypeError(f"expected PORT=URL, got {text!r}")
    return int(port), url


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(prog="integration.demo.browsers", description=__doc__)
    root.add_argument("--mongo-port", type=int, default=8089)
    root.add_argument("--mongo-uri", required=True)
    root.add_argument("--mongo-database", default="drakkar")
    root.add_argument("--redis-port", type=int, default=8087)
    root.add_argument("--redis-url", required=True)
    lead = "leads to a page of the control plane"
    root.add_argument(
        "--lead", type=_lead, action="append", default=[], metavar="PORT=URL", help=lead
    )
    return root


def main() -> None:
    """Serve until ended."""
    given = parser().parse_args()
    password = os.environ.get("BROWSERS_PASSWORD", "")
    if not password:
        raise SystemExit("BROWSERS_PASSWORD: expected a password, got none")
    mongo = MongoPages(given.mongo_uri, given.mongo_database)
    browsers = (
        Browser(given.mongo_port, password, mongo),
        Browser(given.redis_port, password, RedisPages(given.redis_url)),
        *(Browser(port, password, None, url) for port, url in given.lead),
    )
    threads = [threading.Thread(target=one.serve_forever) for one in browsers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
