"""``/go``: what was typed, as the places it may mean: pages, messages, tasks, labels, workers.

With ``Accept: application/json`` a document, for the dialog that ``/`` opens; else a page of links.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.conf import settings
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.urls import NoReverseMatch, reverse
from django.views.decorators.http import require_safe

from domain.origin import TASK_ID
from domain.text_bounds import text_in
from drakkar_site.navigation import entries
from drakkar_site.scope import choice_of, keep
from recorder.failures.reading import titled
from sinks.models import DeadLetter
from workers.control import SCOPES, Action
from workers.control_plane.past_runs import Scope
from workers.control_plane.queries import known_names
from workers.models import ControlRequest

MOST_CHARS = 200
MOST_OF_A_KIND, MOST_RESULTS = 6, 20
MOST_WORDS, LEAST_WORD = 8, 3
"""Words of a title that are looked for, and characters that the longest of them has at least."""
LARGEST_ID = 2**63 - 1


PAUSES = {"key": (Action.PAUSE_KEY, "task_key"), "group": (Action.PAUSE_GROUP, "group")}
"""Pause of what a label of that name says, and the argument that names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Place that was perhaps meant; ``kind`` says in a word what it is."""

    kind: str
    title: str
    url: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Text of a reader, with what they may do and the cluster that they look at (empty: all)."""

    text: str
    scopes: Collection[str]
    names: Sequence[Scope]
    cluster: str = ""

    @property
    def clusters(self) -> list[str]:
        """Clusters that may be meant, the one in view alone if there is one."""
        return [self.cluster] if self.cluster else sorted({cluster for cluster, _ in self.names})


@require_safe
def go(request: HttpRequest) -> HttpResponse:
    """Return at most 20 places that the text may mean, the likeliest first."""
    question = Question(
        text=text_in(request.GET, "q")[:MOST_CHARS],
        scopes=request.META.get(SCOPES, ()),
        names=known_names(),
        cluster=request.GET.get("cluster", ""),
    )
    choice = choice_of(request)
    found = [{**asdict(each), "url": keep(each.url, choice)} for each in results(question)]
    if "application/json" in request.headers.get("Accept", ""):
        return JsonResponse({"results": found})
    return render(request, "go.html", {"question": question.text, "results": found})


def results(question: Question) -> list[Result]:
    """Return the places, of each kind at most six; a text of no known form ends in searches."""
    kinds = KINDS if question.text else (_pages,)
    found = [each for kind in kinds for each in islice(kind(question), MOST_OF_A_KIND)]
    return found[:MOST_RESULTS] if question.text else list(_pages(question))


def _pages(question: Question) -> Iterator[Result]:
    text = question.text.lower()
    for entry, url in entries(question.scopes):
        if text in entry.title.lower():
            yield Result(kind="page", title=entry.title, url=url)


def _messages(question: Question) -> Iterator[Result]:
    if re.fullmatch(r"(\S+[/ ])?\d+:\d+", question.text):
        yield _link("message", f"Trace of {question.text}", "trace_search", q=question.text)


def _tasks(question: Question) -> Iterator[Result]:
    if re.fullmatch(TASK_ID, question.text):
        for cluster in question.clusters:
            url = reverse("task", args=(cluster, question.text))
            yield Result(kind="task", title=question.text, detail=f"cluster {cluster}", url=url)
        yield _link("message", f"Trace of {question.text}", "trace_search", q=question.text)


def _labels(question: Question) -> Iterator[Result]:
    text = question.text
    if _label(text) is None:
        return
    yield _link("label", text, "history", "its events", label=text)
    yield _link("label", text, "trace_search", "its messages", q=text)
    yield _link("label", text, "failures", "its failures", label=text)
    yield _link("label", text, "dead_letters", "its dead letters", label=text)


def _label(text: str) -> tuple[str, str] | None:
    name, sign, value = (part.strip() for part in text.partition("="))
    return (name, value) if name and sign else None


def _actions(question: Question) -> Iterator[Result]:
    """What can be done to all that has a label, each by its confirm page."""
    text = question.text
    if "operate" not in question.scopes or (label := _label(text)) is None:
        return
    yield _link("action", f"Run again what failed with {text}", "new_rerun", label=text)
    for cluster in question.clusters:
        url = f"{reverse('control_new')}?" + urlencode(
            {"action": "cancel_matching", "to_cluster": cluster, "label": text}
        )
        detail = f"unfinished ones, cluster {cluster}"
        yield Result(kind="action", title=f"Cancel tasks with {text}", detail=detail, url=url)
        replay = {"action": "source", "of": "all", "cluster": cluster, "label": text}
        detail = f"open ones, cluster {cluster}"
        yield _link("action", f"Replay letters with {text}", "new_letter_job", detail, **replay)
        yield from _pauses(cluster, *label)


def _pauses(cluster: str, name: str, value: str) -> Iterator[Result]:
    """Pauses of what is a key or a group; a task has its own among its labels. Other labels are
    known after messages were taken in, and pause nothing."""
    if value and (found := PAUSES.get(name)) is not None:
        action, argument = found
        query = {"action": action.value, "to_cluster": cluster, argument: value}
        detail = f"cluster {cluster}"
        yield _link("action", f"{action.spec.title} {value}", "control_new", detail, **query)


def _workers(question: Question) -> Iterator[Result]:
    for cluster, worker in question.names:
        if question.text.lower() in worker.lower() and cluster in question.clusters:
            yield Result(
                kind="worker",
                title=worker,
                detail=f"cluster {cluster}",
                url=_url_of_worker(cluster, worker),
            )


def _url_of_worker(cluster: str, worker: str) -> str:
    try:
        return reverse("worker", kwargs={"cluster": cluster, "worker": worker})
    except NoReverseMatch:  # a name that no path holds
        return f"{reverse('live')}?{urlencode({'cluster': cluster, 'worker': worker})}"


def _failures(question: Question) -> Iterator[Result]:
    words = question.text.split()[:MOST_WORDS]
    if max(map(len, words)) < LEAST_WORD:
        return
    try:
        found = titled(words, question.cluster, MOST_OF_A_KIND)
    except (OperationalError, InterfaceError):  # the history is away: the rest is found
        return
    for group in found:
        said = f"{group.state}, {group.count:,} failures, cluster {group.cluster}"
        url = reverse("failure", args=(group.pk,))
        yield Result(kind="failure", title=group.title, detail=said, url=url)


def _partitions(question: Question) -> Iterator[Result]:
    found = re.fullmatch(r"(?:partition |\S+[/ ])?(\d{1,9})", question.text)
    if not found:
        return
    for cluster in question.clusters:
        if (topic := _source_topic(cluster)) is not None:
            place = {"cluster": cluster, "topic": topic, "number": found[1]}
            url, title = reverse("partition", kwargs=place), f"Partition {found[1]}"
            yield Result(kind="partition", title=title, detail=f"{cluster}, {topic}", url=url)
    yield _link("partition", f"Partitions like {found[1]}", "partitions", text=f"/{found[1]}")


def _source_topic(cluster: str) -> str | None:
    """Return the topic that a cluster reads; None for one that is not configured here."""
    known = settings.DRAKKAR.clusters.get(cluster) if settings.DRAKKAR else None
    return known.kafka.topic if known is not None else None


def _letters(question: Question) -> Iterator[Result]:
    found = re.fullmatch(r"(?:letter )?#?(\d{1,19})", question.text)
    if found is None or int(found[1]) > LARGEST_ID:
        return
    letter = DeadLetter.objects.filter(pk=int(found[1])).only("cluster", "reason").first()
    if letter is not None:
        url = reverse("dead_letter", args=(letter.pk,))
        said = letter.reason[:80]
        yield Result(kind="letter", title=f"Dead letter {letter.pk}", detail=said, url=url)


def _requests(question: Question) -> Iterator[Result]:
    try:
        row = ControlRequest.objects.filter(id=UUID(question.text)).only("action", "actor").first()
    except ValueError:
        return
    if row is not None:
        url, said = reverse("control", args=(row.pk,)), f"by {row.actor}"
        yield Result(kind="request", title=row.action, detail=said, url=url)


def _searches(question: Question) -> Iterator[Result]:
    text = question.text
    yield _link("search", f"“{text}” in the history", "history", text=text)
    yield _link("search", f"“{text}” in the traces", "trace_search", q=text)
    yield _link("search", f"“{text}” in the partitions", "partitions", text=text)


def _link(kind: str, title: str, page: str, detail: str = "", **query: Any) -> Result:
    return Result(kind=kind, title=title, detail=detail, url=f"{reverse(page)}?{urlencode(query)}")


KINDS: tuple[Callable[[Question], Iterator[Result]], ...] = (
    *(_messages, _tasks, _labels, _actions, _requests, _pages, _workers, _partitions),
    *(_letters, _failures, _searches),
)
"""What a text may mean, the surest first."""
