"""One partition's worker without Kafka, programs or sinks: each outcome is the test's to decide."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, cast

from domain.backpressure import Budget, BudgetLimits
from domain.commit import NO_METADATA, CommitMetadata
from domain.decision import DeadLetter, Replace, Retry, Skip
from domain.deferral import Deferral
from domain.events import Event
from domain.failure import DeadLetterCause, FailureKind
from domain.holding import HeldBytes
from domain.message import Message, Record
from domain.origin import MessageOrigin
from domain.parking import ParkingCause
from domain.retry import Backoff
from domain.task import Limits, Precomputed, Task, Usage
from sinks.dead_letter import DeadLetterWriter
from sinks.record_writer import RecordReceipt, TooLarge
from sinks.retry_topic import RetryTopicWriter
from sinks.router import Router
from workers.clock import Clock
from workers.config import ExecutorConfig, KeysConfig
from workers.consumer.ownership import Claim, WantedBoard
from workers.executor.base import Executor, Exit, Launch, Watcher
from workers.executor.slots import Slots
from workers.handler import Handler
from workers.pipeline.arranging import Arranging
from workers.pipeline.hooks import Hooks
from workers.pipeline.life_cycle import LiveMessage, LiveTask, MessageState, TaskState
from workers.pipeline.partition import PartitionTools, PartitionWorker
from workers.pipeline.task_steps import TaskSteps
from workers.pipeline.telling import TaskTeller

CLOSE_SECONDS = 10.0
"""Time for an end, whose own budget is 0.02 s."""
CLAIM = Claim("t", 0, 1)
RETRY_TOPIC = "t_retry"
RETRY_CLAIM = Claim(RETRY_TOPIC, 0, 1)
TURNS = 12
"""Turns of the loop after which nothing moves by itself."""


@dataclass(frozen=True, kw_only=True)
class Script:
    """Behaviour of the handler for one message; it has ``tasks`` tasks, all alike, or one for each
    of ``keys``."""

    tasks: int = 1
    keys: tuple[str | None, ...] = ()
    group: str | None = None
    parse: str = "ok"
    arrange: str = "ok"
    """``ok``, ``raise``, ``hang`` or ``stubborn`` (swallows its cancellation), as for every
    hook."""
    precomputed: int | None = None
    decision: str = "skip"
    """Answer of ``on_error``: retry, wait, skip, dead, replace, raise, hang or stubborn."""
    collect: str = "none"
    """Answer of ``collect``: none, some, wrong, raise, hang or stubborn."""
    complete: str = "none"
    """Answer of both completion hooks."""


class ScriptedHandler(Handler[Any]):
    """Does what the script of each message says; ``release`` ends what hangs."""

    def __init__(self) -> None:
        super().__init__({}, max_retries=0)
        self.hanging: list[asyncio.Future[None]] = []

    def parse(self, message: Record) -> Any:
        script = SCRIPTS[message.offset]
        if script.parse == "raise":
            raise ValueError("as the script says")
        return script

    async def _act(self, act: str) -> list[Any]:
        if act == "raise":
            raise ValueError("as the script says")
        if act in ("hang", "stubborn"):
            future = asyncio.get_running_loop().create_future()
            self.hanging.append(future)
            with suppress(*([asyncio.CancelledError] if act == "stubborn" else [])):
                await future
        return [act] if act in ("some", "wrong", "stubborn") else []

    def release(self) -> None:
        hanging, self.hanging = self.hanging, []
        for future in hanging:
            if not future.done():
                future.set_result(None)

    async def arrange(self, messages: Any, pending: Any) -> Sequence[Task]:
        await self._act(messages[0].payload.arrange)
        return [
            Task(
                source_offsets=(message.offset,),
                metadata=message.payload,
                precomputed=_given(message.payload),
                key=key,
                group=message.payload.group,
            )
            for message in messages
            for key in message.payload.keys or (None,) * message.payload.tasks
        ]

    async def on_error(self, failure: Any) -> Any:
        script = failure.task.metadata
        await self._act(script.decision)
        replacement = Task(metadata=Script())
        return {
            "retry": Retry(delay_seconds=0.0),
            "wait": Retry(delay_seconds=1000.0),
            "dead": DeadLetter(reason="as the script says"),
            "replace": Replace(tasks=[replacement]),
        }.get(script.decision, Skip(reason="as the script says"))

    async def collect(self, result: Any) -> Any:
        return await self._act(result.task.metadata.collect)


class MessageHandler(ScriptedHandler):
    async def on_message_complete(self, group: Any) -> Any:
        return await self._act(group.message.payload.complete)


class BatchHandler(ScriptedHandler):
    async def on_batch_complete(self, batch: Any) -> Any:
        return await self._act(batch.groups[0].message.payload.complete)


class BothHandler(MessageHandler, BatchHandler):
    """Has both completion hooks."""


HANDLERS: tuple[type[ScriptedHandler], ...] = (
    ScriptedHandler,
    MessageHandler,
    BatchHandler,
    BothHandler,
)
SCRIPTS: dict[int, Script] = {}
"""Of the scene that runs, by offset."""


def _given(script: Script) -> Precomputed | None:
    return None if script.precomputed is None else Precomputed(exit_code=script.precomputed)


@dataclass(eq=False)
class Call:
    """A delivery on its way."""

    task_id: str | None
    ended: asyncio.Future[None] = field(default_factory=asyncio.Future)
    is_out: bool = False

    def is_held_up(self, *, by_failures: bool) -> bool:
        return False

    async def wait(self, admit: Callable[[], Awaitable[None]]) -> Any:
        await self.ended
        return SimpleNamespace(dead_lettered=0)


class Sinks:
    """Stands in for the router: deliveries wait for the test, letters too while ``is_shut``."""

    def __init__(self) -> None:
        self.calls: deque[Call] = deque()
        self.is_fenced = False
        self.late = 0
        """Deliveries and letters that began after the epoch was lost."""
        self.may_write = asyncio.Event()
        self.may_write.set()

    def check(self, payloads: Sequence[Any]) -> None:
        if "wrong" in payloads:
            raise TypeError("no payload")

    def start(
        self, payloads: Any, *, record: Any, task_id: str | None, labels: Any, others: Any
    ) -> Call:
        self.late += self.is_fenced
        self.calls.append(Call(task_id))
        return self.calls[-1]

    def hasten(self, calls: Any) -> None:
        pass

    async def bury(self, record: Record, cause: DeadLetterCause) -> None:
        self.late += self.is_fenced
        await self.may_write.wait()


class Retries:
    """Stands in for the writer of the retry topic: a deferral waits while ``may_write`` is not set,
    and is refused as too large while ``is_small``."""

    topic = RETRY_TOPIC

    def __init__(self) -> None:
        self.written: list[tuple[Record, Deferral]] = []
        self.may_write = asyncio.Event()
        self.may_write.set()
        self.is_small = self.is_fenced = False
        self.late = 0

    async def write(self, record: Record, deferral: Deferral) -> RecordReceipt:
        self.late += self.is_fenced
        await self.may_write.wait()
        if self.is_small:
            raise TooLarge("too large on purpose")
        self.written.append((record, deferral))
        return RecordReceipt(topic=RETRY_TOPIC, partition=0, offset=len(self.written) - 1)

    def hasten(self) -> None:
        pass


class Programs:
    """An executor whose programs end as the test says. ``is_late``: as a spawner does of short
    ones, it tells of a start with the end, and may give back what did not start."""

    isolation = cgroups = "none"

    def __init__(self, *, is_late: bool) -> None:
        self.is_late = is_late
        self.running: deque[tuple[asyncio.Future[Exit | None], Watcher, str]] = deque()

    async def recall(self) -> None:
        pass

    async def run(self, launch: Launch, watcher: Watcher) -> Exit | None:
        if not self.is_late:
            watcher.started(0, time.monotonic(), 1)
        future: asyncio.Future[Exit | None] = asyncio.get_running_loop().create_future()
        self.running.append((future, watcher, launch.task_id))
        try:
            return await future
        except asyncio.CancelledError:
            if future.cancelled():
                await self._killed(watcher)
            raise

    def cancel(self, task_id: str) -> bool:
        """It ends by SIGTERM a little later, in a callback of the loop."""
        for future, watcher, name in self.running:
            if name == task_id and not future.done():
                asyncio.get_running_loop().call_soon(self._asked_to_end, future, watcher)
                return True
        return False

    def _asked_to_end(self, future: asyncio.Future[Exit | None], watcher: Watcher) -> None:
        if not future.done():
            self.end(future, watcher, EXITS["fail"])

    async def _killed(self, watcher: Watcher) -> None:
        """Wait for the answer, which comes in a callback of the loop, among others'."""
        killed: asyncio.Future[Exit | None] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(self._answer_kill, killed, watcher)
        while not killed.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait((killed,))
        killed.result()

    def _answer_kill(self, killed: asyncio.Future[Exit | None], watcher: Watcher) -> None:
        try:
            self.end(killed, watcher, EXITS["fail"])
        except BaseException as exc:
            error = AssertionError(f"the answers that follow are lost: {exc!r}")
            killed.set_exception(error)

    def end(
        self, future: asyncio.Future[Exit | None], watcher: Watcher, exit_: Exit | None
    ) -> None:
        if self.is_late and exit_ is not None:
            watcher.started(0, time.monotonic(), 1)
        future.set_result(exit_ or (None if self.is_late else EXITS["ok"]))


class Scene:
    """A partition's worker, what it tells, and every transition of its messages and tasks."""

    def __init__(
        self,
        handler: ScriptedHandler,
        *,
        on_parse_error: str = "dead_letter",
        metadata: CommitMetadata = NO_METADATA,
        slots: int = 1,
        ahead: int = 0,
        retries: Retries | None = None,
        claim: Claim = CLAIM,
        per_key: int = 1,
    ) -> None:
        SCRIPTS.clear()
        self.handler, self.sinks, self.programs = handler, Sinks(), Programs(is_late=ahead > 0)
        self.retries = retries
        self.told: list[Event] = []
        self.live: list[LiveMessage | LiveTask] = []
        self.children: set[asyncio.Task[None]] = set()
        self.ends: list[asyncio.Task[Any]] = []
        self.partition = PartitionWorker(
            claim, self._tools(on_parse_error, Slots(slots, ahead), per_key), metadata
        )

    def _tools(self, on_parse_error: str, slots: Slots, per_key: int) -> PartitionTools:
        clock, handler = Clock(), self.handler
        hooks = Hooks(clock=clock, tell=self.told.append, timeout_seconds=None)
        steps = TaskSteps(
            handler=handler,
            hooks=hooks,
            executor=cast(Executor, self.programs),
            slots=slots,
            config=ExecutorConfig(binary="/bin/true", keys=KeysConfig(max_running_per_key=per_key)),
            base_env={},
            limits=Limits(),
            cluster="main",
            clock=clock,
            teller=TaskTeller(clock, self.told.append),
            backoff=Backoff(),
            retry_in_place_seconds=60.0,
        )
        return PartitionTools(
            cluster="main",
            handler=handler,
            hooks=hooks,
            arranging=Arranging(
                handler=handler,
                hooks=hooks,
                cluster="main",
                on_parse_error=on_parse_error,
                retry_topic=RETRY_TOPIC,
            ),
            steps=steps,
            router=cast(Router, self.sinks),
            dead_letters=cast(DeadLetterWriter, SimpleNamespace(hasten=lambda: None)),
            board=WantedBoard(1000),
            budget=Budget(BudgetLimits(high_messages=1000, high_bytes=10**9)),
            clock=clock,
            tell=self.told.append,
            start=self._start,
            retries=cast("RetryTopicWriter | None", self.retries),
            held_bytes=HeldBytes(10**9),
            max_batch_messages=100,
            batch_linger_seconds=0.0,
        )

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self.children.add(task)
        return task

    # -- what a history is made of -----------------------------------------------------------------

    def hand_over(self, *scripts: Script) -> None:
        first = len(SCRIPTS)
        SCRIPTS.update(enumerate(scripts, first))
        topic = self.partition.claim.topic
        self.partition.hand_over(
            [replace(record(first + n), topic=topic) for n in range(len(scripts))]
        )

    def hand_over_deferred(self, *scripts: Script, due_in: float = 0.0, attempts: int = 1) -> None:
        """Hand over messages of the retry topic all whose tasks run again after so long; those of
        the source have none."""
        if self.partition.claim.topic != RETRY_TOPIC:
            return
        first, due_at = len(SCRIPTS), self.partition.tools.clock.wall() + due_in
        SCRIPTS.update(enumerate(scripts, first))
        self.partition.hand_over(
            [
                deferred(first + n, due_at, dict.fromkeys(range(script.tasks), attempts))
                for n, script in enumerate(scripts)
            ]
        )

    def take_deferrals(self, is_wanted: bool) -> None:
        """Have what is deferred written, or wait."""
        if self.retries is not None:
            (self.retries.may_write.set if is_wanted else self.retries.may_write.clear)()

    def refuse_deferrals(self, is_wanted: bool) -> None:
        """Have the retry topic find every message too large, or none."""
        if self.retries is not None:
            self.retries.is_small = is_wanted

    def exit(self, kind: str) -> None:
        """End the oldest program: ok, fail, lost (with its spawner), missing or given back."""
        while self.programs.running:
            future, watcher, _ = self.programs.running.popleft()
            if not future.done():
                self.programs.end(future, watcher, EXITS[kind])
                return

    def deliver(self) -> None:
        """Store the payloads of the oldest delivery."""
        while self.sinks.calls:
            call = self.sinks.calls.popleft()
            if not call.ended.done():
                call.is_out = True
                call.ended.set_result(None)
                return

    def cancel(self, verdict: Skip | DeadLetter) -> None:
        """Cancel the newest task that can be as an operator."""
        for live in reversed(list(self.partition.tasks.all)):
            if self.partition.cancel_task(live.task.id, verdict):
                return

    def resolve_parse_errors(self) -> None:
        """Parse again what was refused; with ``on_parse_error`` of ``park`` it parks again."""
        self.partition.unpark(ParkingCause.PARSE_ERROR, "by the test")

    def end(self, seconds: float) -> None:
        deadline = self.partition.tools.clock.now() + seconds
        self.ends.append(asyncio.create_task(self.partition.end(deadline, "revoked")))

    def lose(self) -> None:
        self.ends.append(asyncio.create_task(self._lose()))

    async def _lose(self) -> None:
        self.sinks.is_fenced = True
        if self.retries is not None:
            self.retries.is_fenced = True
        await self.partition.lose()

    async def turn(self) -> None:
        """Let everything happen that can."""
        for _ in range(TURNS):
            self.partition.guard.noted(10**9)
            await asyncio.sleep(0)

    async def close(self) -> None:
        """End the epoch if it has not ended. Raises what a child died of, and AssertionError when
        anything went out after the epoch was lost (law 6)."""
        self.handler.release()
        self.sinks.may_write.set()
        if self.retries is not None:
            self.retries.may_write.set()
        if not self.ends:
            self.end(0.02)
        for ended in (self.ends, self.children):
            if not ended:
                continue
            done, hung = await asyncio.wait(ended, timeout=CLOSE_SECONDS)
            for one in hung:
                one.cancel()
            assert not hung, "an epoch ends within its budget"
            for one in done:
                if not one.cancelled():
                    one.result()
        assert not self.sinks.late
        assert self.retries is None or not self.retries.late


def _exit(failure: FailureKind | None, spawn_errno: int | None = None) -> Exit:
    return Exit(
        failure=failure,
        detail="",
        exit_code=0 if failure is None else 1,
        pid=1,
        stdout=b"",
        stderr=b"",
        stdout_size=0,
        stderr_size=0,
        truncated=False,
        started_at=0.0,
        duration_seconds=0.0,
        usage=Usage(),
        spawn_errno=spawn_errno,
    )


EXITS: dict[str, Exit | None] = {
    "ok": _exit(None),
    "fail": _exit(FailureKind.EXIT),
    "lost": _exit(FailureKind.LOST),
    "missing": _exit(FailureKind.SPAWN, spawn_errno=2),
    "given_back": None,
}


def record(offset: int) -> Record:
    return Message(
        topic="t",
        partition=0,
        offset=offset,
        key=None,
        value=b"",
        headers=(),
        timestamp=0,
        payload=None,
    )


def deferred(
    offset: int, due_at: float, attempts: Mapping[int, int], origin: int | None = None
) -> Record:
    """A record of the retry topic: the message at ``origin`` of the source, else at its offset."""
    first = record(offset if origin is None else origin)
    deferral = Deferral(
        origin=MessageOrigin.of(first, "main"), due_at=due_at, attempts=attempts or {0: 1}
    )
    headers = deferral.headers(first, RETRY_TOPIC)
    return replace(first, topic=RETRY_TOPIC, offset=offset, headers=headers)


Edge = tuple[MessageState | TaskState, MessageState | TaskState]


class Transitions:
    """Every transition of every message and task while it is the context."""

    def __init__(self) -> None:
        self.edges: set[Edge] = set()
        self.seen: dict[int, LiveMessage | LiveTask] = {}

    def __enter__(self) -> Transitions:
        self._own = LiveMessage.enter, LiveTask.enter
        LiveMessage.enter = self._heard(LiveMessage.enter)  # type: ignore[method-assign]
        LiveTask.enter = self._heard(LiveTask.enter)  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        LiveMessage.enter, LiveTask.enter = self._own  # type: ignore[method-assign]

    def _heard(self, enter: Any) -> Any:
        def heard(one: Any, state: Any) -> None:
            self.seen[id(one)] = one
            before = one.state
            enter(one, state)
            self.edges.add((before, state))

        return heard
