"""Tests of a handler: the whole worker in memory, without Kafka, Postgres and sinks.

docs/testing-a-handler.md shows it.
"""

from drakkar.testing.messages import GivenMessage, load, message
from drakkar.testing.outcome import Attempt, Letter, NoFate, Outcome
from drakkar.testing.program import Program
from drakkar.testing.running import run

__all__ = [
    "Attempt",
    "GivenMessage",
    "Letter",
    "NoFate",
    "Outcome",
    "Program",
    "load",
    "message",
    "run",
]
