"""The choice of cluster and worker: no link, form or redirect of the site loses it."""

from __future__ import annotations

import re
from html import unescape
from urllib.parse import parse_qs, urlsplit

import pytest
from django.contrib.auth.models import User
from django.test import Client

from drakkar_site.scope import _kept as cache_of_links
from drakkar_site.scope import keep
from integration.bench import fleet
from integration.bench.addresses import addresses
from tests.web.conftest import MakeRun

pytestmark = pytest.mark.django_db
CHOICE = {"cluster": "main", "worker": "worker-1"}
NOT_PAGES = re.compile(
    r"/(api|admin|static|logout|history/export|debug/databases/exports/.*file|healthz|metrics)\b.*"
)
LEAST_PAGES, LEAST_LINKS = 20, 500
CONTROLLER = "/debug?cluster=_control"
"""The controller's runs belong to no cluster that could be kept."""


def chosen(url: str) -> dict[str, str]:
    query = parse_qs(urlsplit(url).query)
    return {name: query[name][0] for name in CHOICE if name in query}


def links(page: str) -> list[str]:
    """Where the page leads within the site, and where its forms are sent."""
    found = re.findall(r'<a [^>]*?href="([^"#][^"]*)"', page)
    found += re.findall(r'<form[^>]*method="post"[^>]*action="([^"]*)"', page)
    urls = [unescape(url) for url in found]
    return [url for url in urls if url[0] in "/?" and not NOT_PAGES.fullmatch(urlsplit(url).path)]


def test_each_link_of_each_page_keeps_the_choice(client: Client, make_run: MakeRun) -> None:
    pages = [url for url in addresses(fleet.make(2_000)) if not NOT_PAGES.match(url)]
    broken = {"topic": "t", "partition": 3, "state": "parked", "parked": {"sink": "disk full"}}
    blocked = {**broken, "partition": 4, "blocker": {"offset": 7, "age_seconds": 90.0}}
    make_run(partitions=[broken, blocked], recorder={"spooled_bytes": 9_000_000})
    client.force_login(User.objects.create_superuser("mara"))
    assert len(pages) >= LEAST_PAGES
    lost, count = [], 0
    for url in pages:
        answer = client.get(keep(url, CHOICE))
        if chosen(keep(url, CHOICE)) != CHOICE:
            continue  # it asks for another worker
        if answer.status_code == 302:
            lost += [url] if chosen(answer["Location"]) != CHOICE else []
            continue
        found = [each for each in links(answer.content.decode()) if each != CONTROLLER]
        count += len(found)
        lost += [f"{url}: {each}" for each in found if set(chosen(each)) != set(CHOICE)]
        lost += [f"{url}: {each}" for each in found if chosen(each).get("cluster") != "main"]
    assert lost == [], "\n".join(lost)
    assert count >= LEAST_LINKS


@pytest.mark.parametrize(
    ("url", "choice", "told"),
    [
        ("/sinks", {}, "/sinks"),
        ("/sinks", CHOICE, "/sinks?cluster=main&worker=worker-1"),
        ("/history?kind=a%20b", {"worker": "w"}, "/history?kind=a%20b&worker=w"),
        ("/live?worker=w-2", CHOICE, "/live?worker=w-2&cluster=main"),
        ("/live?cluster=fast", CHOICE, "/live?cluster=fast"),
        ("/live?cluster=fast", {"worker": "w"}, "/live?cluster=fast&worker=w"),
        ("/live?cluster=", CHOICE, "/live?cluster="),
    ],
)
def test_what_a_link_keeps(url: str, choice: dict[str, str], told: str) -> None:
    assert keep(url, choice) == told


def test_an_action_leads_back_to_the_choice(client: Client, make_run: MakeRun) -> None:
    make_run()
    client.force_login(User.objects.create_superuser("mara"))
    sent = {"action": "drain", "cluster": "main", "worker": "worker-1", "key": "0" * 32}
    answer = client.post("/control/new?cluster=main", sent)
    assert chosen(answer["Location"]) == {"cluster": "main"}


def test_the_target_of_an_action_is_not_the_choice(client: Client, make_run: MakeRun) -> None:
    make_run("worker-1")
    make_run("worker-2", partitions=[{"topic": "t", "partition": 1}])
    client.force_login(User.objects.create_superuser("mara"))
    asked = {"action": "cancel_task", "to_cluster": "main", "task_id": "1:2:3", **CHOICE}
    page = client.get("/control/new", asked)
    assert (page.context["to_worker"], page.context["worker"]) == ("worker-2", "worker-1")


def test_a_choice_however_long_is_kept_in_links_but_not_in_memory() -> None:
    known = cache_of_links.cache_info().currsize
    long = "x" * 100_000
    assert keep("/live", {"worker": long}) == f"/live?worker={long}"
    assert cache_of_links.cache_info().currsize == known
