"""The rules of the verdict: pure functions over what was found outside the product."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from integration.verdict.case import LETTERS, Facts, Fault, Output
from integration.verdict.order import Source, overtaken
from integration.verdict.owners import (
    FENCE_SECONDS,
    GRACE_SECONDS,
    RECEIVER_SECONDS,
    commits_that_went_back,
    work_after_the_end,
    work_of_former_owners,
)
from integration.verdict.rollups import unequal

TASK_STAGES = frozenset({"parse", "arrange", "task"})
FLUSH_SECONDS = 5.0
"""A kill takes the last flush interval (0.25 s) with it, more of a busy machine or database."""
KNOWN_SECONDS = 5.0
"""A worker tells the group twice a second what has its fate; a busy machine needs longer."""
CALM_SECONDS = 10.0
"""So long after a hard fault commits may be refused or late."""
SAMPLE_SECONDS = 2.0
"""The committed offsets before a fault are known if they were sampled so shortly before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One line of the verdict."""

    cluster: str
    rule: str
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """The figures of a cluster; ``notices`` by sink."""

    produced: int
    fates: int
    lost: int
    duplicates: int
    retries: int
    letters_of_timeouts: int
    notices: Mapping[str, int]


def counts(facts: Facts) -> Counts:
    """Return how many requests there were, how many ended, how many did not, and extra outputs."""
    ended = {o.source for o in facts.results} | {o.source for o in facts.letters}
    sources = {request.source for request in facts.requests}
    return Counts(
        produced=len(sources),
        fates=len(sources & ended),
        lost=len(sources - ended),
        duplicates=sum(len(extras) for _, _, extras in _extras(facts)),
        retries=facts.retried_events,
        letters_of_timeouts=sum(letter.failure == "timeout" for letter in facts.letters),
        notices={sink: len(found) for sink, found in facts.notices.items()},
    )


def judge(facts: Facts, cluster: str) -> list[Rule]:
    """Every rule, in the order of the report."""
    checks = (
        ("every record can be judged", _readable),
        ("every request ended", _every_request_ended),
        ("right results", _right_results),
        ("right notices", _right_notices),
        ("deferred for a request", _deferrals),
        ("a result or a letter, not both", _one_end),
        ("duplicates", _duplicates),
        ("committed = end", _committed_is_end),
        ("no commit ahead of a fate", _commits_follow_fates),
        ("no commit goes back", _commits_stay),
        ("former owners are fenced", _former_owners),
        ("one after another of a key", _in_order),
        ("seq without gaps", _sequences),
        ("no letter for an outage", _no_letters_for_outages),
        ("letters = dead_lettered events", _letters_are_told),
        ("letters = rows of DeadLetter", _letters_have_rows),
        ("rollups = the events they were made of", _rollups_are_events),
        ("offsets known at each fault", _samples_are_fresh),
        ("no orphan process", _orphans),
    )
    rules = []
    for name, check in checks:
        breaches = list(check(facts))
        detail = f"{len(breaches)}: {'; '.join(breaches[:3])}" if breaches else "holds"
        rules.append(Rule(cluster=cluster, rule=name, ok=not breaches, detail=detail))
    return rules


def _readable(facts: Facts) -> Iterator[str]:
    yield from facts.unreadable


def _every_request_ended(facts: Facts) -> Iterator[str]:
    if not facts.requests:
        yield "the source topic holds no request: nothing was judged"
    task_letters = {output.source for output in facts.letters if output.stage in TASK_STAGES}
    delivered = {output.source for output in facts.results}
    partly = _lacking(facts, facts.results_sink)
    for request in facts.requests:
        if request.source in task_letters or request.source in delivered:
            continue
        stores = facts.stores.values()
        is_stored = not stores or any(request.request_id in store for store in stores)
        if request.source not in partly or not is_stored:
            yield f"{request.request_id} at {request.source} has neither result nor letter"


def _lacking(facts: Facts, sink: str) -> set[Source]:
    """Requests with a letter at stage deliver: this sink lacks them, the others have them."""
    letters = (output for output in facts.letters if output.stage == "deliver")
    return {output.source for output in letters if output.sink == sink}


def _right_results(facts: Facts) -> Iterator[str]:
    """Each result has the right count, and stands in every store; nothing else does."""
    requests = {request.source: request for request in facts.requests}
    delivered = set()
    for output in facts.results:
        request = requests.get(output.source)
        if request is None:
            yield f"a result of {output.source}, which is no request"
            continue
        delivered.add(request.request_id)
        if output.count != request.expected:
            yield f"{request.request_id}: count {output.count}, right {request.expected}"
    for sink, store in facts.stores.items():
        yield from _right_store(facts, sink, store, delivered)


def _deferrals(facts: Facts) -> Iterator[str]:
    """What waits in the retry topic is of a request, and was told."""
    known = {request.source for request in facts.requests}
    for one in facts.deferred:
        if one.source not in known:
            yield f"{one.place} of the retry topic is of {one.source}, which is no request"


def _right_store(
    facts: Facts, sink: str, store: Mapping[str, Sequence[int]], delivered: set[str]
) -> Iterator[str]:
    expected = {request.request_id: request.expected for request in facts.requests}
    names = {request.source: request.request_id for request in facts.requests}
    excused = {names.get(source) for source in _lacking(facts, sink) | _gone(facts, sink)}
    unsent = _lacking(facts, facts.results_sink) | set(_exposed(facts))
    partly = {names.get(source) for source in unsent}
    for request_id in sorted(delivered - set(store) - excused):
        yield f"{request_id} has a result and is not in {sink}"
    for request_id, counts in store.items():
        if request_id not in delivered | partly:
            yield f"{request_id} is in {sink} and has no result"
        elif list(counts) != [expected.get(request_id)]:
            yield f"{sink}, {request_id}: counts {counts}, right {expected.get(request_id)}, once"


def _gone(facts: Facts, sink: str) -> set[Source]:
    """Requests whose entry in this sink may have expired: its result is as old."""
    limit = facts.gone_before.get(sink, 0.0)
    return {output.source for output in facts.results if output.at < limit}


def _right_notices(facts: Facts) -> Iterator[str]:
    """A sink with a threshold has every result above it at least once, and no other."""
    requests = {request.source: request for request in facts.requests}
    delivered = {output.source for output in facts.results}
    ended = delivered | _lacking(facts, facts.results_sink) | set(_exposed(facts))
    for sink, threshold in facts.thresholds.items():
        notices = facts.notices.get(sink, ())
        got = {output.source for output in notices}
        for source in sorted(delivered - got - _lacking(facts, sink)):
            request = requests.get(source)
            if request is not None and (request.expected or 0) > threshold:
                yield f"{request.request_id}, count {request.expected}, is not in {sink}"
        for output in notices:
            request = requests.get(output.source)
            if request is None or output.source not in ended:
                yield f"{output.source} is in {sink} and has no result"
            elif output.count != request.expected or (request.expected or 0) <= threshold:
                yield f"{sink}, {request.request_id}: count {output.count}, not wanted there"


def _one_end(facts: Facts) -> Iterator[str]:
    """A result and a letter of one request are possible only where a fault let it run twice."""
    letters = {output.source for output in facts.letters if output.stage != "deliver"}
    exposed = _exposed(facts)
    for source in sorted(letters & {output.source for output in facts.results}):
        if source not in exposed:
            yield f"{source} has a result and a letter"


def _streams(facts: Facts) -> Iterator[tuple[str, Sequence[Output]]]:
    """Return what may hold one output of a message, by where it stands."""
    yield facts.results_sink, facts.results
    yield from facts.notices.items()
    for sink in {output.sink for output in facts.letters}:
        yield LETTERS, [output for output in facts.letters if output.sink == sink]


def _extras(facts: Facts) -> Iterator[tuple[str, Source, list[Output]]]:
    """Messages with more than one output in one place: the place, the message, the extra ones."""
    for place, outputs in _streams(facts):
        by_source: dict[Source, list[Output]] = {}
        for output in outputs:
            by_source.setdefault(output.source, []).append(output)
        for source, found in by_source.items():
            if len(found) > 1:
                yield place, source, found[1:]


def _duplicates(facts: Facts) -> Iterator[str]:
    """Extra outputs only of messages in hand at a fault, at most one each fault, with equal ids.

    A receiver that was stopped or frozen may have taken in each try that it did not answer.
    """
    exposed = _exposed(facts)
    for place, source, extras in _extras(facts):
        last = max(output.at for output in extras)
        is_excused = any(
            began <= last <= until + RECEIVER_SECONDS
            for began, until in facts.receiver_faults.get(place, ())
        )
        if len(extras) > exposed[source] and not is_excused:
            yield f"{source}: {len(extras)} extra, {exposed[source]} faults had it in hand"
    places = _exposed_places(facts)
    for place_of_fate, times in facts.fates.items():
        if len(times) - 1 > places[place_of_fate]:
            count = places[place_of_fate]
            yield f"{place_of_fate}: {len(times)} fates, {count} faults had it in hand"
    for _, outputs in _streams(facts):
        ids: dict[Source, set[str]] = {}
        for output in outputs:
            ids.setdefault(output.source, set()).add(output.delivery_id)
        for source, found in ids.items():
            if len(found) > 1:
                yield f"{source}: different delivery ids {sorted(found)}"


def _exposed(facts: Facts) -> Counter[Source]:
    """Return how many hard faults found each request in hand, in the source topic or where it was
    deferred to; each of these lives may be lived again."""
    exposed = _exposed_places(facts)
    for one in facts.deferred:
        exposed[one.source] += exposed[one.place]
    return exposed


def _exposed_places(facts: Facts) -> Counter[Source]:
    """Return how many hard faults found each record consumed, and neither committed nor known to
    the group as one with a fate.

    While Kafka is away every worker goes on with what it has fetched, until it can have heard.
    """
    first_output: dict[Source, float] = {}
    for output in (*facts.results, *facts.letters):
        first_output[output.source] = min(output.at, first_output.get(output.source, output.at))
    # Nobody consumes a deferred message before it is written.
    seen = {one.place: one.at for one in facts.deferred}
    for request in facts.requests:
        seen[request.source] = first_output.get(request.source, float("inf"))
    for place, times in facts.consumed.items():
        if place in seen and place[0] >= 0:
            seen[place] = min(seen[place], *times)
    exposed: Counter[Source] = Counter()
    for fault in (fault for fault in facts.faults if fault.is_hard):
        last = fault.at + GRACE_SECONDS if fault.until is None else fault.until + FENCE_SECONDS
        committed = _committed_at(facts, fault.at)
        for place, at in seen.items():
            if fault.partition not in (None, place[0]):
                continue
            is_in_hand = at <= last and place[1] >= committed.get(place[0], 0)
            if is_in_hand and not _was_known(facts, fault, place):
                exposed[place] += 1
    return exposed


def _was_known(facts: Facts, kill: Fault, source: Source) -> bool:
    """Whether the group was told before a kill that the message has its fate, behind whichever
    others: the heir passes over it."""
    told = min(facts.fates.get(source, ()), default=float("inf"))
    if kill.kind != "kill" or told > kill.at - KNOWN_SECONDS:
        return False
    calm = min(told, kill.at - CALM_SECONDS)
    return not any(
        each is not kill and each.is_hard and calm <= (each.until or each.at) and each.at <= kill.at
        for each in facts.faults
    )


def _committed_at(facts: Facts, at: float) -> Mapping[int, int]:
    earlier = [sample for sample in facts.samples if sample.at <= at]
    return earlier[-1].offsets if earlier else {}


def _committed_is_end(facts: Facts) -> Iterator[str]:
    for partition, end in sorted(facts.end_offsets.items()):
        if end > 0 and facts.committed.get(partition) != end:
            yield f"partition {partition}: committed {facts.committed.get(partition)}, end {end}"


def _commits_follow_fates(facts: Facts) -> Iterator[str]:
    """When a sample shows an offset as passed, something says that the message had ended."""
    if any(fault.is_hard for fault in facts.faults) and not facts.samples:
        yield "no committed offset was sampled: nothing excuses a duplicate"
    ended: dict[Source, float] = {source: min(times) for source, times in facts.fates.items()}
    ends = [(output.source, output.at) for output in (*facts.results, *facts.letters)]
    ends += [(one.source, one.at) for one in facts.deferred]
    for source, at in ends:
        ended[source] = min(at, ended.get(source, at))
    for one in facts.deferred:
        # Its end was told, or its request had one of its ends later than it was written.
        later = [at for source, at in ends if source == one.source and at > one.at]
        ended[one.place] = min([*later, ended.get(one.place, 1e18)])
    checked: dict[int, int] = {}
    known = {request.source for request in facts.requests}
    known |= {one.place for one in facts.deferred}
    for sample in facts.samples:
        for partition, committed in sample.offsets.items():
            for offset in range(checked.get(partition, 0), committed):
                source = (partition, offset)
                if source in known and ended.get(source, 1e18) > sample.at + GRACE_SECONDS:
                    yield f"{source} was committed before it had ended"
            checked[partition] = max(committed, checked.get(partition, 0))


def _commits_stay(facts: Facts) -> Iterator[str]:
    yield from commits_that_went_back(sample.offsets for sample in facts.samples)


def _former_owners(facts: Facts) -> Iterator[str]:
    yield from work_after_the_end(facts.told, facts.silences)
    yield from work_of_former_owners(facts.told, facts.silences)


def _in_order(facts: Facts) -> Iterator[str]:
    """What a run that did not stop in order told last may be lost with it."""
    cut_short = {run.run for run in facts.runs if not run.has_stopped}
    yield from overtaken(facts.steps, facts.keys, cut_short)


def _sequences(facts: Facts) -> Iterator[str]:
    """A killed run may have taken its last flush interval with it, so only its end may lack."""
    hard = [fault for fault in facts.faults if fault.is_hard and fault.partition is None]
    killed = {fault.worker for fault in hard}
    for run in facts.runs:
        missing = run.last_seq - run.first_seq + 1 - run.rows
        if missing != run.shed or run.first_seq != 1:
            yield f"run {run.run}: {missing} missing, {run.shed} counted as shed"
        if not run.has_stopped and run.worker not in killed:
            yield f"run {run.run} of {run.worker} has no end, and nothing killed it"


def _no_letters_for_outages(facts: Facts) -> Iterator[str]:
    """Check that what a stopped or frozen server could not take waits for it."""
    for letter in facts.letters:
        if letter.sink in facts.receiver_faults:
            yield f"{letter.source} was dead-lettered for {letter.sink}, whose server was away"


def _letters_are_told(facts: Facts) -> Iterator[str]:
    """Each letter was told; a killed run may have taken its last flush interval with it."""
    if not _is_near(facts, facts.dead_lettered_events):
        yield f"{len(facts.letters)} letters, {facts.dead_lettered_events} events"


def _letters_have_rows(facts: Facts) -> Iterator[str]:
    """Each letter stands in the table, whose rows are written with the events."""
    if not _is_near(facts, facts.letter_rows):
        yield f"{len(facts.letters)} letters, {facts.letter_rows} rows"


def _rollups_are_events(facts: Facts) -> Iterator[str]:
    """Each event that is stored or accounted for counts once, in each span of time."""
    if facts.runs and not facts.rolled:
        yield "no rollups"
    yield from unequal(facts.rolled, facts.spans)


def _is_near(facts: Facts, told: int) -> bool:
    """Whether only letters that a fault may have left untold are missing."""
    ends = Counter(output.source for output in (*facts.results, *facts.letters))
    untold = sum(
        any(_may_hide(fault, letter, ends[letter.source] > 1) for fault in facts.faults)
        for letter in facts.letters
    )
    return 0 <= len(facts.letters) - told <= untold


def _may_hide(fault: Fault, letter: Output, is_again: bool) -> bool:
    """``is_again``: its message has another end, which may be the one that was told."""
    if fault.kind == "unclean":
        return True
    if fault.until is not None:
        was_out = fault.at - GRACE_SECONDS <= letter.at <= fault.until + RECEIVER_SECONDS
        return is_again and was_out
    last = fault.at - FLUSH_SECONDS <= letter.at <= fault.at + GRACE_SECONDS
    return fault.is_hard and last


def _samples_are_fresh(facts: Facts) -> Iterator[str]:
    """Check the age of the sample that tells what a kill, a freeze or Kafka's absence excuses."""
    for fault in facts.faults:
        before = [sample.at for sample in facts.samples if sample.at <= fault.at]
        age = fault.at - max(before, default=float("-inf"))
        if fault.kind in ("kill", "freeze", "away") and age > SAMPLE_SECONDS:
            yield f"{fault.kind} of {fault.worker}: the last sample is {age:.1f} s older"


def _orphans(facts: Facts) -> Iterator[str]:
    for fault in facts.faults:
        if fault.orphans:
            yield f"{fault.orphans} processes outlived {fault.worker} ({fault.kind})"
