"""Rows that others make of events, in the transaction that stores these: all of it or nothing.

A row of an event may carry plain values under keys that are no columns of the events' table. COPY
passes over them, the spool keeps them, and a projection makes rows of its own of them. So what is
stored and what is made of it are one transaction, and the compare-and-set of the run
(``recorder.writer.flush``) makes both exactly once.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from recorder.rows import Row
from recorder.runs import RunDescription
from recorder.writer import Project


class Carried(StrEnum):
    """Key of a row that is no column. Its value is of plain types, for the spool reads no other."""

    CONTENT = "content"
    """Content of a dead letter (``domain.letter.LetterContent``), for its row."""
    TALLY = "tally"
    """What the events of the row count for: a list of ``recorder.rollups.sums.Observation``."""
    SUMS = "sums"
    """What events that have no row count for (``recorder.rollups.sums.Carried``)."""
    FAILURE_GROUPS = "failure_groups"
    """Groups of failures that have no row (``recorder.failures.grouping.Shed``)."""
    FAILURE_GROUP = "failure_group"
    """Group of a failure or letter: the fields of ``recorder.failures.grouping.Grouped``."""


def in_turn(*projections: Project) -> Project:
    """Return the projection that runs these, one after the other, in the same transaction.

    What one raises ends the transaction, and so undoes what those before it wrote.
    """

    def project(run: RunDescription, rows: Sequence[Row]) -> None:
        for each in projections:
            each(run, rows)

    return project
