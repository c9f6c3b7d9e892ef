"""Causes for which one partition is parked at the moment."""

from __future__ import annotations

from collections.abc import Mapping

from domain.parking import ParkingCause
from domain.text_bounds import shortened


class Parking:
    """The causes of the moment; empty: the partition is not parked."""

    __slots__ = ("_details",)

    def __init__(self) -> None:
        self._details: dict[ParkingCause, str] = {}

    def add(self, cause: ParkingCause, detail: str) -> bool:
        """Add a cause; False when the partition is parked for it already."""
        if cause in self._details:
            return False
        self._details[cause] = shortened(detail)
        return True

    def remove(self, cause: ParkingCause) -> bool:
        """Remove a cause; False when the partition was not parked for it."""
        return self._details.pop(cause, None) is not None

    @property
    def details(self) -> Mapping[ParkingCause, str]:
        """Detail of each cause."""
        return self._details

    @property
    def is_halting(self) -> bool:
        """Whether nothing further may be arranged."""
        return any(cause.handling.is_halting for cause in self._details)
