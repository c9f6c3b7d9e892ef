"""Case that the verdict judges: everything that was found of one cluster's run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from integration.verdict.order import Source, Step
from integration.verdict.owners import Silence, Told
from integration.verdict.rollups import Rolled, Spans

LETTERS = "letters"
"""Name of the place of letters, beside the sinks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A record of the source topic; ``expected`` is the right count, None: not a request."""

    source: Source
    request_id: str
    expected: int | None
    file_path: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """A result, notice or letter. ``at`` is its time in epoch seconds, infinity where untold.

    A letter tells its ``stage`` and ``failure`` kind, and at stage deliver the ``sink`` that lacks
    the payload.
    """

    source: Source
    delivery_id: str
    at: float
    count: int | None = None
    stage: str = ""
    failure: str = ""
    sink: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deferred:
    """A record of the retry topic, written ``at``: the request of ``source`` runs again from it."""

    place: Source
    source: Source
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something done to a worker, or ``away``: to Kafka, and by it to every worker at once.

    ``is_hard``: duplicates may follow.
    """

    at: float
    kind: str
    worker: str
    orphans: int = 0
    partition: int | None = None
    """The only one it concerned; None: all of this worker."""
    until: float | None = None
    """When Kafka answered again; None: it was not Kafka."""

    @property
    def is_hard(self) -> bool:
        """Whether work in hand may be done again after it."""
        return self.kind in ("kill", "freeze", "unclean", "away")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Committed offsets by partition at one moment."""

    at: float
    offsets: Mapping[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEvents:
    """Events stored of one run: count of rows, first and last seq, shed count.

    ``has_stopped``: its last event is there, so its last flush is.
    """

    run: str
    worker: str
    has_stopped: bool
    rows: int
    first_seq: int
    last_seq: int
    shed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything found, of one cluster. ``results_sink`` is the name of its Kafka sink."""

    requests: Sequence[Request]
    results: Sequence[Output]
    letters: Sequence[Output]
    deferred: Sequence[Deferred] = ()
    results_sink: str = "results"
    stores: Mapping[str, Mapping[str, Sequence[int]]] = field(default_factory=dict)
    """By sink: the counts by request id; each result stands in every store, once."""
    gone_before: Mapping[str, float] = field(default_factory=dict)
    """By sink whose entries expire: what was stored before this time may be gone."""
    notices: Mapping[str, Sequence[Output]] = field(default_factory=dict)
    thresholds: Mapping[str, int] = field(default_factory=dict)
    """By sink: a result of more matches than its threshold is among its notices."""
    end_offsets: Mapping[int, int] = field(default_factory=dict)
    committed: Mapping[int, int] = field(default_factory=dict)
    samples: Sequence[Sample] = ()
    faults: Sequence[Fault] = ()
    receiver_faults: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    """By sink: from when until when its receiver was away; it may hold what it never answered."""
    consumed: Mapping[Source, Sequence[float]] = field(default_factory=dict)
    fates: Mapping[Source, Sequence[float]] = field(default_factory=dict)
    runs: Sequence[RunEvents] = ()
    told: Sequence[Told] = ()
    silences: Sequence[Silence] = ()
    keys: Mapping[Source, str] = field(default_factory=dict)
    """The key of each request's task; empty: tasks have none."""
    steps: Sequence[Step] = ()
    dead_lettered_events: int = 0
    letter_rows: int = 0
    """Of this cluster in the table of letters."""
    rolled: Sequence[Rolled] = ()
    spans: Sequence[Spans] = ()
    """Rollups beside the events; counts by minutes, hours and days."""
    retried_events: int = 0
    unreadable: Sequence[str] = ()
    """Records that do not say what they belong to, or are gone from their topic."""
