"""The demo's browsers on real servers: behind a login, read-only, escaped."""

from __future__ import annotations

import base64
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from pymongo import MongoClient
from redis import Redis

from integration.demo.browsers import Browser, MongoPages, Page, RedisPages
from integration.services.mongo import RunningMongo
from integration.services.redis import RunningRedis


@contextmanager
def served(show: Page | None, target: str = "") -> Iterator[str]:
    browser = Browser(0, "a-password", show, target)
    thread = threading.Thread(target=browser.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{browser.server_address[1]}/"
    finally:
        browser.shutdown()
        thread.join()
        browser.server_close()


def got(url: str, password: str = "a-password") -> str:
    secret = base64.b64encode(f"admin:{password}".encode()).decode()
    request = urllib.request.Request(url, headers={"Authorization": f"Basic {secret}"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return str(answer.read(), "utf-8")


def refused(url: str, password: str = "a-password") -> int:
    """The status of an answer that refuses."""
    with pytest.raises(urllib.error.HTTPError) as caught:
        got(url, password)
    with caught.value as answer:
        return answer.code


def test_nothing_is_shown_without_the_password() -> None:
    with served(lambda query: "secret") as url:
        assert refused(url, "another") == 401


def test_collections_and_their_last_documents_are_shown_escaped(
    mongo_server: RunningMongo,
) -> None:
    opened: Any = MongoClient(mongo_server.uri)
    with opened as client:
        client["browsed"]["notes"].insert_one({"_id": "1", "text": "<script>"})
    with closing(MongoPages(mongo_server.uri, "browsed")) as pages, served(pages) as url:
        assert '<a href="?collection=notes">notes</a>' in got(url)
        shown = got(f"{url}?collection=notes")
        assert "&lt;script&gt;" in shown
        assert "<script>" not in shown
        assert refused(f"{url}?collection=none") == 404


def test_keys_are_shown_with_their_time_to_live(redis_server: RunningRedis) -> None:
    with Redis.from_url(redis_server.url) as client:
        client.set("browsed:1", "<b>", ex=1000)
        client.hset("browsed:2", "field", "value")
    with closing(RedisPages(redis_server.url)) as pages, served(pages) as url:
        shown = got(f"{url}?match=browsed:*")
    assert "<td valign=top>browsed:1</td><td valign=top>string</td>" in shown
    assert "&lt;b&gt;" in shown
    assert "for ever" in shown


def test_the_topics_are_shown_by_the_control_plane() -> None:
    with (
        served(lambda query: "the topics") as page,
        served(None, page) as url,
    ):
        assert got(url) == "the topics"
