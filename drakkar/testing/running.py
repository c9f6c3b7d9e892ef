"""Runs a handler: the product's own worker, with a broker, sinks and letters in memory."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from domain.decision import Retry, TaskDecision, check_decision
from domain.failure import TaskFailure
from drakkar.testing.messages import GivenMessage, records
from drakkar.testing.outcome import NoFate, Outcome, outcome_of
from drakkar.testing.program import FunctionExecutor, Program
from workers.handler import Handler

if TYPE_CHECKING:
    from workers.config import ClusterConfig

BACKOFF = {"initial_seconds": 0.001, "max_seconds": 0.001}
NEEDED = {"handler": "given:Handler", "kafka": {"topic": "messages", "group": "test"}}


def run(
    handler: type[Handler[Any]] | Handler[Any] | None,
    messages: Iterable[GivenMessage],
    *,
    program: Program | None = None,
    cluster: str | None = None,
    config: Mapping[str, Any] | None = None,
    timeout_seconds: float = 30.0,
) -> Outcome:
    """Run messages of one topic through a handler and return what became of them.

    ``handler``: a class, made with the settings of its cluster, an object, or None for the
    configured one. ``program`` stands in for the real program. The cluster is ``config``, a section
    below ``clusters``, or one of the configuration: ``cluster``, else that of the handler, else
    the only one. Retries are not waited for, and nothing is deferred.

    Raises ValueError for a bad configuration or bad messages, NoFate, and what ``program`` raises.
    """
    _start_django()
    from drakkar_site.config.sources import environment
    from workers.executor.base import ExecutorUnavailable
    from workers.runtime.build import load_handler, make_handler
    from workers.runtime.probe import ProbeStopped, ProbeTimedOut, rehearse

    given = list(messages)
    name, section = _cluster(handler, cluster, config)
    section = _for_tests(section, given, has_program=program is not None)
    try:
        if handler is None:
            made = load_handler(section)
        else:
            made = make_handler(handler, section) if isinstance(handler, type) else handler
    except LookupError as exc:
        raise ValueError(str(exc)) from exc
    read = records(given, section.kafka.topic)
    executor = None if program is None else FunctionExecutor(program)
    try:
        with _without_delays(made):
            found = asyncio.run(
                rehearse(
                    section,
                    name,
                    made,
                    read,
                    environ=environment(),
                    timeout_seconds=timeout_seconds,
                    executor=executor,
                )
            )
    except (ProbeStopped, ProbeTimedOut, ExecutorUnavailable) as exc:
        if executor is not None and executor.error is not None:
            raise executor.error from None
        raise NoFate(str(exc)) from exc
    return outcome_of(read, found.events, found.deliveries, found.committed)


def _start_django() -> None:
    """Load the models that events are stored by; nothing connects to a database."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "drakkar_site.worker_settings")
    import django

    django.setup()


def _cluster(
    handler: type[Handler[Any]] | Handler[Any] | None,
    wanted: str | None,
    config: Mapping[str, Any] | None,
) -> tuple[str, ClusterConfig]:
    """Return name and section of the cluster. Raises ValueError naming what is wrong."""
    from drakkar_site.config.sources import load
    from workers.config import ClusterConfig

    if config is not None:
        return wanted or "test", ClusterConfig.model_validate({**NEEDED, **config})
    state = load()
    if state.config is None:
        told = "\n".join(problem.report for problem in state.problems)
        raise ValueError(f"{told}\nfix {state.path}, or give run(...) a config of its own")
    clusters = state.config.clusters
    if wanted is None:
        cls = handler if isinstance(handler, type) else type(handler)
        path = f"{cls.__module__}:{cls.__qualname__}"
        wanted = next((name for name, each in clusters.items() if each.handler == path), None)
    if wanted is None and len(clusters) == 1:
        wanted = next(iter(clusters))
    if wanted not in clusters:
        got = "none, and no handler is this one" if wanted is None else repr(wanted)
        raise ValueError(f"cluster: expected one of {', '.join(clusters)}, got {got}")
    return wanted, clusters[wanted]


def _for_tests(
    section: ClusterConfig, messages: Iterable[GivenMessage], *, has_program: bool
) -> ClusterConfig:
    """Return the section for the topic of the messages, one that waits for nothing. Raises
    ValueError for messages of several topics."""
    topics = sorted({each.topic for each in messages if each.topic is not None})
    if len(topics) > 1:
        raise ValueError(f"messages: expected those of one topic, got {', '.join(topics)}")
    topic = topics[0] if topics else section.kafka.topic
    executor, backoff = section.executor, section.executor.retry_backoff
    binary = executor.binary or ("program" if has_program else None)
    changes = {"retry_backoff": backoff.model_copy(update=BACKOFF), "binary": binary}
    return section.model_copy(
        update={
            "kafka": section.kafka.model_copy(update={"topic": topic}),
            "executor": executor.model_copy(update=changes),
            "retry": section.retry.model_copy(update={"topic": None}),
        }
    )


@contextmanager
def _without_delays(handler: Handler[Any]) -> Iterator[None]:
    """Have failed tasks run again at once, however long the handler wants to wait."""
    on_error = handler.on_error

    async def at_once(failure: TaskFailure) -> TaskDecision:
        decided: Any = on_error(failure)
        decision: TaskDecision = await decided if inspect.isawaitable(decided) else decided
        check_decision(decision)
        return Retry(delay_seconds=0) if isinstance(decision, Retry) else decision

    own = vars(handler)
    before = dict(own)
    own["on_error"] = at_once
    try:
        yield
    finally:
        del own["on_error"]
        if "on_error" in before:
            own["on_error"] = before["on_error"]
