"""Each rule of the verdict fails on a run doctored against it, and a healthy run passes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from integration.verdict.case import LETTERS, Facts, Fault, Output, Request, RunEvents, Sample
from integration.verdict.order import Step, overtaken
from integration.verdict.rollups import Rolled, Spans
from integration.verdict.rules import counts, judge

A, B, C = (0, 0), (0, 1), (1, 0)


def result(source: tuple[int, int], at: float, matches: int = 3, suffix: str = "0") -> Output:
    partition, offset = source
    name = f"main/search-requests/{partition}/{offset}/1/0/collect/{suffix}"
    return Output(source=source, delivery_id=name, at=at, count=matches)


def letter(source: tuple[int, int], at: float, stage: str = "task", sink: str = "") -> Output:
    return Output(source=source, delivery_id=f"letter {source}", at=at, stage=stage, sink=sink)


def stored(**changed: dict[str, list[int]]) -> dict[str, dict[str, list[int]]]:
    """A row, a document and a summary of each result, but for what is changed."""
    whole = {"a": [3], "b": [3]}
    return {"metrics": whole, "archive": whole, "summaries": whole, **changed}


def healthy() -> Facts:
    """Two results and a letter; the webhook is told of counts over 2."""
    return Facts(
        requests=[
            Request(source=A, request_id="a", expected=3),
            Request(source=B, request_id="b", expected=3),
            Request(source=C, request_id="c", expected=0),
        ],
        results=[result(A, 10.0), result(B, 11.0)],
        letters=[letter(C, 12.0)],
        stores=stored(),
        gone_before={"summaries": 5.0},
        notices={"webhook": [result(A, 10.0), result(B, 11.0)]},
        thresholds={"webhook": 2},
        end_offsets={0: 2, 1: 1, 2: 0},
        committed={0: 2, 1: 1},
        samples=[
            Sample(at=10.0, offsets={}),
            Sample(at=10.5, offsets={0: 1}),
            Sample(at=13.0, offsets={0: 2, 1: 1}),
        ],
        consumed={A: [9.0], B: [9.0], C: [9.0]},
        fates={A: [10.1], B: [11.1], C: [12.1]},
        runs=[run_of()],
        dead_lettered_events=1,
        letter_rows=1,
        rolled=[rolled_of("consumed", 3), rolled_of("dead_lettered", 1)],
        spans=[Spans(subject="input", minutes=3, hours=3, days=3)],
        keys={A: "k", B: "k", C: "k"},
        steps=[
            step(9.0, "assigned", A),
            step(9.1, "task_started", A),
            step(10.1, "message_completed", A),
            step(10.1, "task_started", B),
            step(11.1, "message_completed", B),
            step(9.2, "task_started", C),
            step(12.1, "message_completed", C),
        ],
    )


def rolled_of(kind: str, told: int, **changes: int) -> Rolled:
    given = {"told": told, "rolled": told, "told_us": 0, "rolled_us": 0, **changes}
    return Rolled(run="r", start=60, kind=kind, **given)


def step(at: float, kind: str, source: tuple[int, int], run: str = "r") -> Step:
    return Step(at=at, run=run, kind=kind, source=source)


def breached(facts: Facts) -> set[str]:
    return {rule.rule for rule in judge(facts, "main") if not rule.ok}


def fault(kind: str, at: float = 10.2, orphans: int = 0) -> Fault:
    return Fault(at=at, kind=kind, worker="worker-2", orphans=orphans)


def run_of(rows: int = 10, shed: int = 0, has_stopped: bool = True) -> RunEvents:
    """A run of worker-2 whose last seq is 10."""
    return RunEvents(
        run="r",
        worker="worker-2",
        has_stopped=has_stopped,
        rows=rows,
        first_seq=1,
        last_seq=10,
        shed=shed,
    )


def twice(*faults: Fault) -> Facts:
    """B's result is there twice."""
    run = healthy()
    return replace(run, results=[*run.results, result(B, 11.5)], faults=list(faults))


def test_a_healthy_run_passes() -> None:
    assert breached(healthy()) == set()
    figures = counts(healthy())
    assert (figures.produced, figures.fates, figures.lost, figures.duplicates) == (3, 3, 0, 0)


def test_retries_timeouts_and_notices_are_counted() -> None:
    late = replace(letter(C, 12.0), failure="timeout")
    figures = counts(replace(healthy(), retried_events=4, letters=[late, letter(B, 12.0)]))
    assert (figures.retries, figures.letters_of_timeouts, figures.notices) == (4, 1, {"webhook": 2})


DOCTORED = {
    "lost": ({"letters": [], "dead_lettered_events": 0}, "every request ended"),
    "wrong count": ({"results": [result(A, 10.0, 4), result(B, 11.0)]}, "right results"),
    **{
        f"{doctored} in {sink}": ({"stores": stored(**{sink: content})}, "right results")
        for sink in ("metrics", "archive", "summaries")
        for doctored, content in {
            "nothing": {},
            "no entry": {"a": [3]},
            "wrong entry": {"a": [3], "b": [2]},
            "entry of a letter": {"a": [3], "b": [3], "c": [0]},
            "entry of nothing": {"a": [3], "b": [3], "z": [3]},
            "entry twice": {"a": [3], "b": [3, 3]},
        }.items()
    },
    "overtaken": (
        {"steps": [*healthy().steps[1:], step(10.0, "task_started", B)]},
        "one after another of a key",
    ),
    "no notice": ({"notices": {"webhook": [result(A, 10.0)]}}, "right notices"),
    "no notices": ({"notices": {}}, "right notices"),
    "wrong notice": (
        {"notices": {"webhook": [result(A, 10.0, 4), result(B, 11.0)]}},
        "right notices",
    ),
    "notice below the threshold": ({"thresholds": {"webhook": 3}}, "right notices"),
    "notice of a letter": (
        {"notices": {"webhook": [result(A, 10.0), result(B, 11.0), result(C, 12.0)]}},
        "right notices",
    ),
    "notice of nothing": (
        {"notices": {"webhook": [result(A, 10.0), result(B, 11.0), result((5, 5), 12.0)]}},
        "right notices",
    ),
    "notice twice": (
        {"notices": {"webhook": [result(A, 10.0), result(B, 11.0), result(B, 11.1)]}},
        "duplicates",
    ),
    "both ends": (
        {"letters": [letter(C, 12.0), letter(B, 12.0)], "dead_lettered_events": 2},
        "a result or a letter, not both",
    ),
    "behind": ({"committed": {0: 1, 1: 1}}, "committed = end"),
    "never committed": ({"committed": {0: 2}}, "committed = end"),
    "ahead": ({"samples": [Sample(at=10.2, offsets={0: 2})]}, "no commit ahead of a fate"),
    "just ahead": ({"samples": [Sample(at=10.6, offsets={0: 2})]}, "no commit ahead of a fate"),
    "gap": (
        {"runs": [run_of(rows=9)]},
        "seq without gaps",
    ),
    "orphan": ({"faults": [fault("stop", orphans=1)]}, "no orphan process"),
    "no end": ({"runs": [run_of(has_stopped=False)]}, "seq without gaps"),
    "end of another": (
        {
            "runs": [run_of(has_stopped=False)],
            "faults": [Fault(at=10.2, kind="kill", worker="worker-1")],
        },
        "seq without gaps",
    ),
    "unreadable": ({"unreadable": ["search-results/0/7: no id"]}, "every record can be judged"),
    "letter for an outage": (
        {
            "letters": [letter(C, 12.0), letter(A, 12.0, "deliver", "archive")],
            "dead_lettered_events": 2,
            "receiver_faults": {"archive": [(9.0, 10.0)]},
        },
        "no letter for an outage",
    ),
    "event that no rollup counts": (
        {"rolled": [rolled_of("delivered", 3, rolled=2)]},
        "rollups = the events they were made of",
    ),
    "duration counted twice": (
        {"rolled": [rolled_of("delivered", 3, told_us=500_000, rolled_us=1_000_000)]},
        "rollups = the events they were made of",
    ),
    "shed event that no rollup counts": (
        {"rolled": [rolled_of("delivered", 3, shed=2)]},
        "rollups = the events they were made of",
    ),
    "hour that lacks a minute": (
        {"spans": [Spans(subject="input", minutes=3, hours=2, days=3)]},
        "rollups = the events they were made of",
    ),
    "rollups left out": ({"rolled": []}, "rollups = the events they were made of"),
    "untold letter": ({"dead_lettered_events": 0}, "letters = dead_lettered events"),
    "letter without a row": ({"letter_rows": 0}, "letters = rows of DeadLetter"),
    "row without a letter": ({"letter_rows": 2}, "letters = rows of DeadLetter"),
    "letter of a long past kill": (
        {"letter_rows": 0, "dead_lettered_events": 0, "faults": [fault("kill", at=20.0)]},
        "letters = rows of DeadLetter",
    ),
    "told long before a kill": (
        {"dead_lettered_events": 0, "faults": [fault("kill", at=20.0)]},
        "letters = dead_lettered events",
    ),
    "letter at another stage": ({"letters": [letter(C, 12.0, "collect")]}, "every request ended"),
    "result and letter of another stage": (
        {"letters": [letter(C, 12.0), letter(B, 12.0, "collect")]},
        "a result or a letter, not both",
    ),
    "old sample": ({"faults": [fault("kill", at=15.1)]}, "offsets known at each fault"),
    "no sample before": ({"faults": [fault("freeze", at=9.9)]}, "offsets known at each fault"),
    "told twice": ({"dead_lettered_events": 2}, "letters = dead_lettered events"),
}


@pytest.mark.parametrize(("change", "rule"), DOCTORED.values(), ids=DOCTORED.keys())
def test_a_doctored_run_is_named(change: dict[str, object], rule: str) -> None:
    assert rule in breached(replace(healthy(), **change))  # type: ignore[arg-type]


def test_counted_shed_events_are_no_gap() -> None:
    run = run_of(rows=9, shed=1)
    assert breached(replace(healthy(), runs=[run])) == set()


@pytest.mark.parametrize("kind", ["kill", "freeze", "unclean"])
def test_a_hard_fault_excuses_one_more_output_of_a_message_in_hand(kind: str) -> None:
    assert breached(twice(fault(kind))) == set()


@pytest.mark.parametrize("faults", [(), (fault("stop"),)], ids=["none", "clean stop"])
def test_without_a_hard_fault_there_is_no_duplicate(faults: tuple[Fault, ...]) -> None:
    assert "duplicates" in breached(twice(*faults))


def test_a_kill_excuses_no_message_committed_before_it() -> None:
    assert "duplicates" in breached(twice(fault("kill", at=14.0)))


def done_again_behind_a_slow_head(at: float, *others: Fault) -> Facts:
    """B ended at 11.1, A holds the commit back; B runs again after a kill at ``at``."""
    again = [*healthy().results, result(B, at + 5.0)]
    samples = [Sample(at=at - 0.5, offsets={}), Sample(at=99.0, offsets={0: 2, 1: 1})]
    faults = [fault("kill", at=at), *others]
    return replace(healthy(), results=again, faults=faults, samples=samples)


def test_a_kill_excuses_no_message_of_which_the_group_knew() -> None:
    assert "duplicates" in breached(done_again_behind_a_slow_head(30.0))
    assert breached(done_again_behind_a_slow_head(12.0)) == set()


@pytest.mark.parametrize("kind", ["kill", "freeze", "unclean", "away"])
def test_it_is_excused_where_another_fault_may_have_kept_the_group_from_knowing(kind: str) -> None:
    assert "duplicates" not in breached(done_again_behind_a_slow_head(30.0, fault(kind, at=29.0)))


def test_a_kill_excuses_no_message_consumed_after_it() -> None:
    assert "duplicates" in breached(twice(fault("kill", at=5.0)))


def test_one_kill_excuses_one_more_output_only() -> None:
    run = twice(fault("kill"))
    assert "duplicates" in breached(replace(run, results=[*run.results, result(B, 11.9)]))


def test_a_duplicate_has_the_same_delivery_id() -> None:
    run = replace(healthy(), faults=[fault("kill")])
    other = result(B, 11.5, suffix="1")
    assert "duplicates" in breached(replace(run, results=[*run.results, other]))


def test_a_run_without_requests_is_no_success() -> None:
    assert breached(Facts(requests=[], results=[], letters=[]))


def test_a_kill_without_samples_excuses_nothing_unproven() -> None:
    assert breached(replace(twice(fault("kill", at=14.0)), samples=[]))


def test_a_second_completion_in_one_run_is_named() -> None:
    assert breached(replace(healthy(), fates={A: [10.1, 10.2], B: [11.1], C: [12.1]}))


def test_a_letter_at_deliver_alone_is_no_end_without_a_result() -> None:
    assert breached(replace(healthy(), letters=[letter(C, 12.0, "deliver")]))


@pytest.mark.parametrize(("sink", "is_excused"), [("webhook", True), ("metrics", False)])
def test_a_letter_excuses_only_the_sink_it_names(sink: str, is_excused: bool) -> None:
    run = healthy()
    letters = [*run.letters, letter(B, 11.0, "deliver", sink)]
    lacking = replace(
        run,
        letters=letters,
        dead_lettered_events=2,
        letter_rows=2,
        notices={"webhook": [result(A, 10.0)]},
    )
    assert (breached(lacking) == set()) is is_excused


def test_letters_of_two_sinks_are_no_duplicates() -> None:
    run = healthy()
    letters = [letter(B, 11.0, "deliver", sink) for sink in ("webhook", "metrics")]
    both = replace(
        run,
        letters=[*run.letters, *letters],
        dead_lettered_events=3,
        letter_rows=3,
        notices={"webhook": [result(A, 10.0)]},
        stores=stored(metrics={"a": [3]}),
    )
    assert breached(both) == set()


def test_a_letter_is_an_end_where_the_only_sink_lacks_it() -> None:
    """As in cluster ``fast``, which has no store."""
    run = healthy()
    only = replace(
        run,
        results=[result(A, 10.0)],
        letters=[*run.letters, letter(B, 11.0, "deliver", "results")],
        dead_lettered_events=2,
        letter_rows=2,
        stores={},
        notices={},
        thresholds={},
    )
    assert breached(only) == set()
    assert "every request ended" in breached(replace(only, letters=run.letters))


@pytest.mark.parametrize(("sink", "is_excused"), [("summaries", True), ("archive", False)])
def test_a_summary_may_have_expired(sink: str, is_excused: bool) -> None:
    run = replace(healthy(), stores=stored(**{sink: {"b": [3]}}), gone_before={"summaries": 10.5})
    assert (breached(run) == set()) is is_excused


@pytest.mark.parametrize("kind", ["kill", "stop"])
def test_a_kill_excuses_an_entry_without_a_result(kind: str) -> None:
    """It was stored, the worker died, and the second run of the task timed out."""
    run = replace(
        healthy(),
        stores=stored(archive={"a": [3], "b": [3], "c": [0]}),
        faults=[fault(kind, at=11.9)],
    )
    assert ("right results" in breached(run)) is (kind == "stop")


@pytest.mark.parametrize("kind", ["kill", "stop"])
def test_a_kill_excuses_a_notice_without_a_result(kind: str) -> None:
    """The notice was out, the worker died, and the second run of the task timed out."""
    run = healthy()
    notices = {"webhook": [*run.notices["webhook"], result(C, 10.0)]}
    requests = [replace(request, expected=3) for request in run.requests]
    after = replace(run, requests=requests, notices=notices, faults=[fault(kind, at=11.9)])
    assert ("right notices" in breached(after)) is (kind == "stop")


def test_a_killed_run_may_lack_its_end_but_nothing_within() -> None:
    run = replace(healthy(), faults=[fault("kill")])
    assert breached(replace(run, runs=[run_of(has_stopped=False)])) == set()
    assert breached(replace(run, runs=[run_of(rows=9, has_stopped=False)])) == {"seq without gaps"}


def test_a_letter_just_before_a_kill_may_be_untold() -> None:
    run = replace(healthy(), dead_lettered_events=0, letter_rows=0)
    assert breached(replace(run, faults=[fault("kill", at=13.1)])) == set()


def test_an_orphan_is_told_with_the_worker_it_outlived() -> None:
    rules = judge(replace(healthy(), faults=[fault("stop", orphans=2)]), "main")
    (rule,) = (rule for rule in rules if not rule.ok)
    assert rule.detail == "1: 2 processes outlived worker-2 (stop)"


@pytest.mark.parametrize(
    ("faults", "is_excused"),
    [
        ({"webhook": [(11.05, 11.06)]}, True),
        ({"webhook": [(9.0, float("inf"))]}, True),
        ({"webhook": [(-9.0, -5.0)]}, False),
        ({"webhook": [(12.0, 13.0)]}, False),
        ({"files": [(1.0, 12.0)]}, False),
    ],
)
def test_a_receivers_fault_excuses_only_what_came_to_it_then_or_soon_after(
    faults: dict[str, list[tuple[float, float]]], is_excused: bool
) -> None:
    run = healthy()
    notices = [*run.notices["webhook"], result(B, 11.1), result(B, 11.2)]
    twice_told = replace(run, notices={"webhook": notices}, receiver_faults=faults)
    assert ("duplicates" not in breached(twice_told)) is is_excused
    assert counts(twice_told).duplicates == 2


def away(at: float, until: float) -> Fault:
    """Kafka did not answer from when until when; B was consumed at 9.0, committed at 13.0."""
    return Fault(at=at, kind="away", worker="kafka", until=until)


@pytest.mark.parametrize(
    ("absence", "is_excused"),
    [
        (away(10.6, 12.0), True),
        (away(3.0, 5.0), True),
        (away(1.0, 3.9), False),
        (away(13.1, 14.0), False),
    ],
    ids=["within", "heard of later", "before", "committed"],
)
def test_an_absence_of_kafka_excuses_what_was_in_hand_until_all_had_heard(
    absence: Fault, is_excused: bool
) -> None:
    samples = [Sample(at=absence.at - 1.0, offsets={}), *healthy().samples]
    run = replace(twice(absence), samples=sorted(samples, key=lambda one: one.at))
    assert breached(run) == (set() if is_excused else {"duplicates"})
    once_more = replace(run, results=[*run.results, result(B, 11.9)])
    assert breached(once_more) == {"duplicates"}


def test_an_absence_of_kafka_ends_no_run_and_without_a_sample_before_it_fails_the_run() -> None:
    run = replace(healthy(), faults=[away(10.6, 12.0)])
    assert breached(run) == set()
    assert breached(replace(run, runs=[run_of(has_stopped=False)])) == {"seq without gaps"}
    assert breached(replace(run, faults=[away(16.0, 20.0)])) == {"offsets known at each fault"}


@pytest.mark.parametrize(
    ("absence", "is_excused"),
    [(away(11.8, 12.3), True), (away(12.3, 12.4), False), (away(-9.0, -4.0), False)],
)
def test_an_absence_of_kafka_hides_one_of_two_ends_but_no_only_one(
    absence: Fault, is_excused: bool
) -> None:
    """The letter was stored, the answer was lost, and the second run of the task did not fail."""
    run = healthy()
    samples = [Sample(at=absence.at - 1.0, offsets={}), *run.samples]
    samples.sort(key=lambda one: one.at)
    faults = {"faults": [absence], "samples": samples}
    untold = replace(run, dead_lettered_events=0, letter_rows=0, **faults)  # type: ignore[arg-type]
    names = {"letters = dead_lettered events", "letters = rows of DeadLetter"}
    assert names <= breached(untold)
    again = replace(untold, results=[*run.results, result(C, 12.6)])
    assert (not names & breached(again)) is is_excused


def test_a_sink_of_kafka_excuses_its_own_duplicates_while_it_is_away() -> None:
    run = healthy()
    letters = [letter(C, 12.0), letter(C, 12.1), letter(C, 12.2)]
    three = replace(run, letters=letters, dead_lettered_events=3, letter_rows=3)
    assert breached(three) == {"duplicates"}
    for place, found in {LETTERS: set(), "results": {"duplicates"}}.items():
        assert breached(replace(three, receiver_faults={place: [(12.0, 14.0)]})) == found


def test_a_revoke_past_its_budget_excuses_its_own_partition_only() -> None:
    unclean = fault("unclean")
    assert breached(twice(replace(unclean, partition=B[0]))) == set()
    assert breached(twice(replace(unclean, partition=7))) == {"duplicates"}


def _steps(*told: tuple[float, str, int], run: str = "r") -> list[Step]:
    return [step(at, kind, (0, offset), run) for at, kind, offset in told]


KEYS = {(0, offset): "k" for offset in range(4)} | {(0, 9): "other"}
START, END, EPOCH = "task_started", "message_completed", "assigned"


def test_one_that_is_done_again_by_the_next_owner_is_in_order() -> None:
    killed = _steps((1, EPOCH, 0), (2, START, 0), (3, END, 0), (4, START, 1))
    heir = _steps(
        (9, EPOCH, 0), (10, START, 0), (11, END, 0), (12, START, 1), (13, END, 1), run="s"
    )
    assert not list(overtaken([*killed, *heir], KEYS, {"r"}))


def test_an_epoch_of_the_same_run_begins_anew() -> None:
    first = _steps((1, EPOCH, 0), (2, START, 0), (3, END, 0), (4, START, 1))
    again = _steps((5, EPOCH, 1), (6, START, 1), (7, START, 1), (8, END, 1), (9, START, 2))
    assert not list(overtaken([*first, *again], KEYS))


def test_others_and_messages_of_no_key_run_beside_them() -> None:
    told = _steps((2, START, 0), (2, START, 9), (3, START, 7), (4, END, 0))
    assert not list(overtaken(told, KEYS))


def test_a_retry_of_the_first_while_the_second_runs_is_a_breach() -> None:
    told = _steps((2, START, 0), (3, START, 1), (4, START, 0), (5, END, 0), (6, END, 1))
    (breach,) = overtaken(told, KEYS)
    assert breach == "run r, key k: (0, 1) began before 0 had ended"


def test_an_end_that_is_missing_is_a_breach_unless_the_run_was_cut_short() -> None:
    told = _steps((2, START, 0), (3, START, 1), (4, END, 1))
    assert list(overtaken(told, KEYS))
    assert not list(overtaken(told, KEYS, {"r"}))
