"""What the chaos test does on a thread of its own is never taken for done when it died half way."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from http.client import IncompleteRead
from xmlrpc.client import Fault as CallFault

import pytest

from integration.chaos.__main__ import Chaos
from integration.chaos.outages import Outages
from integration.chaos.pages import Pages
from integration.chaos.plan import WORKERS, Deed, Step
from integration.demo.clusters import KAFKA, Cluster
from integration.demo.faults import Fault, Scenario
from integration.demo.kafka import Offsets
from integration.demo.plan import Options
from integration.demo.running import RunningDemo
from integration.demo.up import Stack
from integration.services.base import ServiceFailed

UNEXPECTED = (RuntimeError("odd"), IncompleteRead(b""), CallFault(10, "BAD_NAME"), SystemExit(0))


def nothing(deed: Deed, target: str) -> str:
    return ""


def no_fates() -> int:
    return 0


class AlreadyBegun(Chaos):
    """Its moment has come; no page is asked."""

    def _has_begun(self) -> bool:
        return True

    def _standing(self) -> str:
        return "nobody looks"


class DrainedStack(Stack):
    """A demo whose backlog is drained; nothing of it runs."""

    def __init__(self) -> None:
        self._options = Options(messages=1, until_drained=True)
        self._drained = threading.Event()

    def _offsets(self, cluster: Cluster) -> Offsets:
        return object.__new__(Offsets)

    def _check(self, faults: Sequence[Scenario]) -> None:
        for fault in faults:
            if fault.problem:
                raise ServiceFailed(fault.problem)

    def _is_drained(self, groups: Iterable[Offsets]) -> bool:
        return True

    def _judge(self) -> int:
        return 0


class EndsBadly:
    """A thread that ends with a problem just when it is asked whether it lives."""

    problem = ""

    def start(self) -> None:
        """It runs."""

    def is_alive(self) -> bool:
        self.problem = "at the last moment"
        return False

    def give_up(self) -> None:
        """It will not."""


def ground(
    count_fates: Callable[[], int] = no_fates,
    act: Callable[[Deed, str], str] = nothing,
    is_drained: Callable[[], bool] = lambda: True,
) -> RunningDemo:
    """A demo in which nothing can be done."""
    return RunningDemo(
        web_url="http://127.0.0.1:1/",
        auth_token="",
        messages=0,
        partitions=0,
        speed=1.0,
        worker_ports={},
        count_fates=count_fates,
        is_drained=is_drained,
        act=act,
    )


def scenarios(count: Callable[[], int]) -> list[Scenario]:
    steps = [Step(at_seconds=0, deeds=((Deed.KILL, "worker-2"),))]
    demo = ground(count)
    hit = Fault("kill", 1, count, lambda kind: 0)
    return [Chaos(demo, steps, 0.1, []), Outages(demo), Pages(demo, 1.0, []), hit]


@pytest.mark.parametrize("raised", UNEXPECTED, ids=lambda raised: type(raised).__name__)
def test_whatever_ends_a_thread_half_way_is_its_problem(raised: BaseException) -> None:
    def fail() -> int:
        raise raised

    for trouble in scenarios(fail):
        assert isinstance(trouble, threading.Thread)
        trouble.run()
        assert type(raised).__name__ in trouble.problem, trouble


def test_an_act_that_fails_ends_the_schedule_with_a_problem() -> None:
    def act(deed: Deed, target: str) -> str:
        raise RuntimeError(f"{target} would not {deed}")

    steps = [Step(at_seconds=0, deeds=((Deed.STOP, "redis"),))]
    chaos = AlreadyBegun(ground(act=act), steps, 0.1, [])
    chaos.run()
    assert chaos.problem == "chaos: RuntimeError: redis would not stop"


def test_a_schedule_that_was_done_has_no_problem() -> None:
    done = []

    def act(deed: Deed, target: str) -> str:
        done.append((deed, target))
        return ""

    steps = [Step(at_seconds=0, deeds=((Deed.FREEZE, "redis"), (Deed.THAW, "redis")))]
    chaos = AlreadyBegun(ground(act=act), steps, 0.1, [])
    chaos.run()
    assert (chaos.problem, done) == ("", [(Deed.FREEZE, "redis"), (Deed.THAW, "redis")])


def test_a_kafka_that_is_back_is_waited_for_until_every_partition_has_its_owner() -> None:
    waited = []

    class Waits(AlreadyBegun):
        def _own_all(self, live: set[str]) -> bool:
            waited.append((live, list(done)))
            return True

    done = []

    def act(deed: Deed, target: str) -> str:
        done.append(deed)
        return ""

    steps = [Step(at_seconds=0, deeds=((deed, KAFKA),)) for deed in (Deed.STOP, Deed.START)]
    Waits(ground(act=act), steps, 0.1, []).run()
    assert waited == [(set(WORKERS), [Deed.STOP, Deed.START])]


def test_a_schedule_looks_on_until_the_backlog_is_drained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("integration.chaos.__main__.PEEK_SECONDS", 0.0)
    answers = iter([False, False, True])
    AlreadyBegun(ground(is_drained=lambda: next(answers)), [], 0.1, []).run()
    looked_on = capsys.readouterr().out.partition("the backlog drains")[2]
    assert looked_on.count("nobody looks") == 2


def test_a_page_that_goes_away_in_the_middle_of_its_answer_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def torn(*asked: object, **how: object) -> None:
        raise IncompleteRead(b"")

    monkeypatch.setattr("urllib.request.urlopen", torn)
    assert Chaos(ground(), [], 0.1, [])._standing() == "the page does not answer"


def test_a_fault_whose_moment_never_comes_is_a_problem() -> None:
    fault = Fault("kill", 1, no_fates, lambda kind: 0)
    fault.give_up()
    fault.run()
    assert "there never were 1 fates" in fault.problem


def test_a_problem_of_the_last_moment_is_not_judged() -> None:
    late = EndsBadly()
    with pytest.raises(ServiceFailed, match="at the last moment"):
        DrainedStack().watch([late])
