"""Letters to replay or resolve, asked for on a page or by the API: done by the controller.

A job keeps which letters it is for (none that came later) and may be run again after its runner
died: what is not open any more is left out.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import islice
from typing import Any
from uuid import uuid4

from domain.events import Tell
from domain.failure import Stage
from domain.masking import mask_text
from sinks.base import SinkError
from sinks.letter_edit import Edit
from sinks.letter_events import tell_resolved, tell_sent, tell_stored
from sinks.letter_job_end import did_nothing, with_left_out
from sinks.letter_rows import Filters
from sinks.letter_transports import no_road
from sinks.models import DeadLetter, LetterAction, LetterJob, LetterJobState
from sinks.replay import (
    Outcome,
    ReplayTransport,
    Selection,
    original_of,
    pacer,
    replay,
    resolve,
    selected,
    walk,
)
from sinks.replay_sink import CHUNK_LETTERS, NoLiveWorker, Redeliver, deliver_chunk

MAX_LETTERS = 10_000
MAX_CHOSEN = 1000
MIN_RATE, MAX_RATE = 0.1, 1000.0
MAX_WAITING = 20
MAX_REASON = 1000
PROGRESS_SECONDS = 0.5
FINAL = (LetterJobState.DONE, LetterJobState.FAILED)
TO_SOURCE = (LetterAction.SOURCE, LetterAction.EDIT)
KEPT = (
    *("ids", "worker", "stage", "failure", "sink", "group", "label", "reason"),
    *("since", "until", "up_to_id"),
)
TIMES = ("since", "until")

ReplayTransportFactories = Mapping[str, Callable[[], ReplayTransport]]
"""The way to the source topic of each cluster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayTransports:
    """How letters leave: to the source topics, and to sinks by live workers."""

    transports: ReplayTransportFactories
    redeliver: Redeliver


class BadJob(ValueError):
    """A job that cannot be; the text names the field, what was expected and what came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What a job would be for. ``letters`` are all; ``is_cut``: there are more than a job takes."""

    selection: Selection
    letters: int
    messages: int
    bytes: int
    by_stage: list[tuple[str, int]]
    by_sink: list[tuple[str, int]]
    is_cut: bool
    first: list[DeadLetter]


def preview(selection: Selection, shown: int) -> Preview:
    """The letters as they are now, the first of them in full; later ones are left out for good."""
    fixed = pinned(selection)
    letters = selected(fixed)
    rows = list(letters.values_list("origin", "size_bytes", "stage", "sink")[: MAX_LETTERS + 1])
    kept = rows[:MAX_LETTERS]
    return Preview(
        selection=fixed,
        letters=len(kept),
        messages=len({origin for origin, *_ in kept}),
        bytes=sum(size for _, size, *_ in kept),
        by_stage=Counter(stage for *_, stage, _ in kept).most_common(),
        by_sink=Counter(sink for *_, sink in kept if sink).most_common(),
        is_cut=len(rows) > MAX_LETTERS,
        first=list(letters.defer("key", "value", "headers")[:shown]),
    )


def chosen(ids: Sequence[int], action: LetterAction, up_to_id: int) -> Selection:
    """These letters. Raises BadJob when they are none, too many, or of several clusters."""
    if not 1 <= len(ids) <= MAX_CHOSEN:
        raise BadJob(f"letter: expected 1 to {MAX_CHOSEN} chosen letters, got {len(ids) or 'none'}")
    found = DeadLetter.objects.filter(pk__in=ids).values_list("cluster", flat=True)
    clusters = sorted(set(found))
    if len(clusters) != 1:
        told = ", ".join(clusters) or "none"
        raise BadJob(f"letter: expected letters of one cluster, got those of {told}")
    return Selection(cluster=clusters[0], ids=ids, stage=_only(action), up_to_id=up_to_id)


def matching(filters: Filters, action: LetterAction, up_to_id: int) -> Selection:
    """All letters of a cluster that the filters mean. Raises BadJob."""
    if not filters.cluster:
        raise BadJob("cluster: expected one, because a replay needs its source; got none")
    if filters.message is not None:
        raise BadJob("message: expected none, choose its letters one by one")
    only = _only(action)
    if only and filters.stage not in ("", only):
        raise BadJob(f"stage: expected {only}, because others hold no payload; got {filters.stage}")
    return Selection(
        cluster=filters.cluster,
        worker=filters.worker,
        stage=only or filters.stage,
        failure=filters.failure,
        sink=filters.sink,
        group=filters.group,
        label=filters.label,
        reason=filters.reason,
        since=filters.since,
        until=filters.until,
        up_to_id=up_to_id,
    )


def _only(action: LetterAction) -> str:
    return Stage.DELIVER.value if action is LetterAction.SINK else ""


def pinned(selection: Selection) -> Selection:
    """The same letters without those that come later."""
    newest = selected(selection).order_by("-id").values_list("id", flat=True).first()
    return Selection(**{**_fields(selection), "up_to_id": newest or 1})


def _fields(selection: Selection) -> dict[str, Any]:
    return {name: getattr(selection, name) for name in ("cluster", *KEPT)}


def ask_for(
    selection: Selection,
    action: LetterAction,
    *,
    actor: str,
    key: str,
    reason: str,
    rate: float,
    edit: Callable[[], Edit] | None = None,
) -> LetterJob:
    """Queue a job; with a ``key`` used before, the job of that key. Raises BadJob, also for a key
    of another job.

    ``edit`` makes what is sent in place of the one letter's message; what it raises is raised.
    """
    _check(selection, action, reason, rate, is_edit=edit is not None)
    reason = mask_text(reason)
    asked = {
        "action": action.value,
        "cluster": selection.cluster,
        "selection": _written(selection),
        "reason": reason,
        "rate": rate,
        "actor": actor,
    }
    known = LetterJob.objects.filter(key=key).first()
    return _same(known or _queue(selection, key, asked, edit), asked)


def _written(selection: Selection) -> dict[str, Any]:
    """Return a selection as its job keeps it, without what is empty."""
    found = {name: getattr(selection, name) for name in KEPT} | {"ids": [*selection.ids]}
    times = {name: found[name].isoformat() for name in TIMES if found[name]}
    return {name: value for name, value in (found | times).items() if value or name == "ids"}


def _queue(
    selection: Selection, key: str, asked: Mapping[str, Any], edit: Callable[[], Edit] | None
) -> LetterJob:
    """A new job, or the one that came between with that key. Raises BadJob."""
    if LetterJob.objects.exclude(state__in=FINAL).count() >= MAX_WAITING:
        raise BadJob(f"{MAX_WAITING} jobs wait already: try again when some are done")
    replacement = edit().kept() if edit else None
    total = selected(selection)[:MAX_LETTERS].count()
    if not total:
        raise BadJob("letters: expected at least one that is open, got none")
    if asked["action"] in TO_SOURCE and (reason := no_road(selection.cluster)):
        raise BadJob(reason)
    job, _ = LetterJob.objects.get_or_create(
        key=key,
        defaults={**asked, "id": uuid4(), "replacement": replacement, "letters_total": total},
    )
    return job


def _same(job: LetterJob, asked: Mapping[str, Any]) -> LetterJob:
    """The job if it is what was asked. Raises BadJob."""
    for name, value in asked.items():
        if _without_bound(getattr(job, name)) != _without_bound(value):
            told = f"key: it was sent before, for {job.action} with another {name}: send it anew"
            raise BadJob(told)
    return job


def _without_bound(value: Any) -> Any:
    """A selection asked again is bounded by a later letter."""
    if not isinstance(value, dict):
        return value
    return {name: each for name, each in value.items() if name != "up_to_id"}


def _check(
    selection: Selection, action: LetterAction, reason: str, rate: float, *, is_edit: bool
) -> None:
    if not selection.cluster:
        raise BadJob("cluster: expected one, because a replay needs its source topic; got none")
    if not MIN_RATE <= rate <= MAX_RATE:
        raise BadJob(f"rate: expected {MIN_RATE:g} to {MAX_RATE:g}, got {rate:g}")
    if (action == LetterAction.EDIT) != (is_edit and len(selection.ids) == 1):
        raise BadJob("action: expected an edit of one letter; open the letter to edit it")
    if action == LetterAction.RESOLVE and not reason:
        raise BadJob("reason: expected why the letters need no replay, got nothing")
    if len(reason) > MAX_REASON:
        raise BadJob(f"reason: expected {MAX_REASON} characters or less, got {len(reason)}")


def selection_of(job: LetterJob) -> Selection:
    """The letters a job is for."""
    kept: dict[str, Any] = {name: job.selection[name] for name in KEPT if name in job.selection}
    times = {name: datetime.fromisoformat(kept[name]) for name in TIMES if kept.get(name)}
    return Selection(cluster=job.cluster, **(kept | times))


def run_job(
    job: LetterJob, transports: ReplayTransports, tell: Tell, note: Callable[..., None]
) -> dict[str, Any]:
    """Do the job and return how it ended, as columns of its row. Raises DatabaseError and what
    ``note`` raises; that writes columns on the way."""
    progress = _Progress(job, note)
    try:
        if job.action == LetterAction.RESOLVE:
            result = _resolve(job, progress, tell)
        elif job.action == LetterAction.SINK:
            result = _deliver(job, transports.redeliver, progress, tell)
        else:
            result = _replay(job, _transport(job, transports.transports), progress, tell)
    except (SinkError, BadJob, NoLiveWorker) as exc:
        return {"state": LetterJobState.FAILED, "error": str(exc)[:500]}
    result = with_left_out(job, selection_of(job), result)
    if any(result.get(name) for name in ("is_cut_short", "failed", "unconfirmed")):
        error = progress.last
    else:
        error = did_nothing(job, selection_of(job), result)
        if not error:
            return {"state": LetterJobState.DONE, "result": result}
    return {"state": LetterJobState.FAILED, "result": result, "error": error[:500]}


def _transport(job: LetterJob, transports: ReplayTransportFactories) -> ReplayTransport:
    if job.cluster not in transports:
        known = ", ".join(transports) or "none"
        raise BadJob(f"cluster: the controller knows {known}, not {job.cluster}")
    return transports[job.cluster]()


def _replay(
    job: LetterJob, transport: ReplayTransport, progress: _Progress, tell: Tell
) -> dict[str, Any]:
    edit = Edit.read(job.replacement) if job.replacement else None
    parts = edit.parts if edit else ()
    outcome = replay(
        walk(selection_of(job), MAX_LETTERS),
        transport,
        actor=job.actor,
        pace=pacer(job.rate, time.monotonic, time.sleep),
        told=progress,
        arrived=lambda letter, sent: tell_sent(tell, letter, sent, job.actor, parts),
        content=(lambda *_: edit.record(job.actor)) if edit else original_of,
        job=job.id,
    )
    return _counts(outcome)


def _deliver(
    job: LetterJob, redeliver: Redeliver, progress: _Progress, tell: Tell
) -> dict[str, Any]:
    outcome = Outcome()
    letters = walk(selection_of(job), MAX_LETTERS)
    pace = pacer(job.rate, time.monotonic, time.sleep)
    while chunk := list(_paced(letters, pace)):
        stored = deliver_chunk(
            chunk,
            redeliver,
            actor=job.actor,
            job=job.id,
            outcome=outcome,
            tick=progress.tick,
            told=progress,
        )
        for letter in stored:
            tell_stored(tell, letter, job.actor)
    return _counts(outcome)


def _paced(letters: Iterator[DeadLetter], pace: Callable[[], None]) -> Iterator[DeadLetter]:
    """The next letters that go together, no faster than the pace."""
    for letter in islice(letters, CHUNK_LETTERS):
        pace()
        yield letter


def _counts(outcome: Outcome) -> dict[str, Any]:
    counts = asdict(outcome)
    return counts | {name: len(counts[name]) for name in ("failed", "unconfirmed")}


def _resolve(job: LetterJob, progress: _Progress, tell: Tell) -> dict[str, Any]:
    counts = Counter(resolved=0, taken=0)
    for letter in walk(selection_of(job), MAX_LETTERS):
        is_done = resolve(letter, job.actor, job.reason)
        counts["resolved" if is_done else "taken"] += 1
        if is_done:
            tell_resolved(tell, letter, job.actor, job.reason)
        progress(letter, "resolved" if is_done else "left out")
    return dict(counts)


class _Progress:
    """Counts what is done; ``last`` is the last thing told of a letter that was not sent."""

    def __init__(self, job: LetterJob, note: Callable[..., None]) -> None:
        self.last = ""
        self._job = job
        self._note = note
        self._told_at = 0.0

    def tick(self) -> None:
        """Note that the runner lives. Raises what ``note`` raises."""
        self._note(letters_done=self._job.letters_done)

    def __call__(self, letter: DeadLetter, what: str) -> None:
        """Count one letter more. Raises what ``note`` raises."""
        self._job.letters_done += 1
        if not what.startswith(("replayed", "resolved", "left out")):
            self.last = f"{letter}: {what}"
        if time.monotonic() - self._told_at >= PROGRESS_SECONDS:
            self._told_at = time.monotonic()
            self.tick()
