"""``top`` on a terminal: a table of workers, and below a key what one of them does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

from django.db import DatabaseError, connections
from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import DataTable, Footer, Static

from domain.printable import printable
from workers.control_plane.top.overview import Overview, WorkerRow

REFRESH_SECONDS = 2.0
LATE_SECONDS = 6.0
UNKNOWN = "?"
WORKERS = (
    "cluster",
    "worker",
    "state",
    "busy",
    "waiting",
    "lag",
    "done",
    "failed",
    "letters",
    "beat",
)
TASKS = ("task", "slot", "attempt", "runs", "progress", "note")
PARTITIONS = ("topic", "partition", "state", "lag", "pending")
SINKS = ("sink", "kind", "delivered", "errors", "breaker", "last error")
FAILURES = ("cluster", "count", "last seen", "kind", "what")
Read = Callable[[], Overview]
Row = tuple[str, Sequence[str | Text]]


class Top(App[None]):
    """Reads the moment every two seconds, on a thread; while Postgres is away it says so."""

    TITLE = "drakkar top"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "Quit"),
        Binding("r", "refresh", "Refresh"),
        Binding("f", "failures", "Failures"),
    ]

    def __init__(self, read: Read, *, refresh_seconds: float = REFRESH_SECONDS) -> None:
        super().__init__()
        self._read = read
        self._refresh_seconds = refresh_seconds
        self.overview: Overview | None = None
        self.problem = ""
        self._is_reading = False

    def on_mount(self) -> None:
        """Show the workers, and read for the first time."""
        self.push_screen(Workers())
        self.set_interval(self._refresh_seconds, self.action_refresh)
        self.action_refresh()

    def action_refresh(self) -> None:
        """Read now, unless a reading is under way."""
        if not self._is_reading:
            self._is_reading = True
            self.run_worker(self._refresh())

    async def _refresh(self) -> None:
        try:
            self.overview = await asyncio.to_thread(_closing, self._read)
            self.problem = ""
        except DatabaseError as exc:
            self.problem = f"Postgres is away, the figures are old: {exc}".strip()
        finally:
            self._is_reading = False
        if isinstance(self.screen, Page):
            self.screen.show()

    def action_failures(self) -> None:
        """Show the groups of failures."""
        if not isinstance(self.screen, Failures):
            self.push_screen(Failures())


def _closing(read: Read) -> Overview:
    """Read on a thread that will not be asked again."""
    try:
        return read()
    finally:
        connections.close_all()


class Page(Screen[None]):
    """Tables below a line of text. ``TABLES`` names each by its columns."""

    TABLES: ClassVar[dict[str, tuple[str, ...]]] = {}
    has_tables = False
    CSS = "Static { padding: 0 1; } DataTable { height: auto; max-height: 100%; }"

    def compose(self) -> ComposeResult:
        """Make the widgets."""
        yield Static(id="said")
        for name in self.TABLES:
            yield DataTable(id=name, cursor_type="row", zebra_stripes=True)
        yield Footer()

    def on_mount(self) -> None:
        """Make the columns, and show what is known."""
        for name, columns in self.TABLES.items():
            self.query_one(f"#{name}", DataTable).add_columns(*columns)
        self.has_tables = True
        self.show()

    def show(self) -> None:
        """Show the latest reading."""
        top = self.app
        if not isinstance(top, Top) or not self.has_tables:
            return
        said = self.query_one("#said", Static)
        if top.overview is None:
            said.update(Text(top.problem or "reading ..."))
            return
        line = self.fill(top.overview)
        said.update(Text(printable(f"{top.problem}  {line}" if top.problem else line)))

    def fill(self, overview: Overview) -> str:
        """Fill the tables; return the line above them."""
        raise NotImplementedError

    def fill_table(self, name: str, rows: Iterable[Row]) -> None:
        """Replace the rows, with the cursor where it was."""
        table = self.query_one(f"#{name}", DataTable)
        place = table.cursor_row
        table.clear()
        for key, cells in rows:
            table.add_row(*map(_cell, cells), key=key)
        table.move_cursor(row=min(place, max(0, table.row_count - 1)))


class Workers(Page):
    """Every worker that the control plane knows; Enter leads to one."""

    TABLES: ClassVar = {"workers": WORKERS}

    def fill(self, overview: Overview) -> str:
        """Fill the table of workers."""
        self.fill_table("workers", ((row.key, _worker(row)) for row in overview.workers))
        lags = "  ".join(f"lag of {name}: {_count(lag)}" for name, lag in overview.lags.items())
        failures = sum(row.count for row in overview.failures)
        return f"{overview.at:%H:%M:%S} UTC  {lags or 'no worker yet'}  open failures: {failures:,}"

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Lead to the worker of the row."""
        if event.row_key.value is not None:
            self.app.push_screen(OneWorker(event.row_key.value))


class OneWorker(Page):
    """What one worker does: its running tasks, its partitions, its sinks."""

    TABLES: ClassVar = {"tasks": TASKS, "partitions": PARTITIONS, "sinks": SINKS}
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "app.pop_screen", "Back")]

    def __init__(self, key: str) -> None:
        super().__init__()
        self._key = key

    def fill(self, overview: Overview) -> str:
        """Fill the three tables."""
        row = overview.worker(self._key)
        if row is None:
            return f"{self._key}: not known any more"
        self.fill_table("tasks", _tasks(row))
        self.fill_table("partitions", _partitions(row))
        self.fill_table("sinks", _sinks(row))
        return f"{row.worker} of {row.cluster}: {row.state}, last beat {row.age_seconds:.0f} s ago"


class Failures(Page):
    """Open groups of failures of the last day, the latest first."""

    TABLES: ClassVar = {"failures": FAILURES}
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "app.pop_screen", "Back")]

    def fill(self, overview: Overview) -> str:
        """Fill the table of groups."""
        rows = (
            (
                str(number),
                (
                    row.cluster,
                    f"{row.count:,}",
                    f"{row.last_seen:%m-%d %H:%M}",
                    row.kind,
                    row.title,
                ),
            )
            for number, row in enumerate(overview.failures)
        )
        self.fill_table("failures", rows)
        return f"open failures of the last day: {len(overview.failures)} causes"


def _cell(value: str | Text) -> Text:
    """No text of a worker is markup or steers the terminal."""
    return value if isinstance(value, Text) else Text(printable(value))


def _count(number: float | None) -> str:
    return UNKNOWN if number is None else f"{number:,.0f}"


def _worker(row: WorkerRow) -> Sequence[str | Text]:
    is_late = row.slots is not None and row.age_seconds > LATE_SECONDS
    return (
        row.cluster,
        row.worker,
        row.state,
        "-" if row.slots is None else f"{_count(row.busy)}/{row.slots:,}",
        _count(row.waiting),
        _count(row.lag),
        _count(row.completed),
        _alarming(row.failed),
        _alarming(row.dead_letters),
        Text(f"{row.age_seconds:,.0f} s", style="bold yellow" if is_late else ""),
    )


def _alarming(number: int | None) -> Text:
    return Text(_count(number), style="bold red" if number else "")


def _tasks(row: WorkerRow) -> Iterable[Row]:
    for task in row.running:
        runs = UNKNOWN if task.started_at is None else f"{row.read_at - task.started_at:,.1f} s"
        progress = "" if task.progress is None else f"{task.progress:.0%}"
        cells = (_count(task.slot), _count(task.attempt), runs, progress, task.note or "")
        yield task.task_id, (task.task_id, *cells)


def _partitions(row: WorkerRow) -> Iterable[Row]:
    for each in row.partitions:
        cells = (each.state or UNKNOWN, _count(each.lag), _count(each.pending))
        yield f"{each.topic}/{each.partition}", (each.topic, str(each.partition), *cells)


def _sinks(row: WorkerRow) -> Iterable[Row]:
    for sink in row.sinks:
        counts = (_count(sink.delivered), _alarming(sink.errors))
        said = (sink.breaker or UNKNOWN, sink.last_error or "")
        yield sink.name, (sink.name, sink.kind or UNKNOWN, *counts, *said)
