"""Values that a message is made of by the dozen: frozen for the type checker, cheap at run time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass as value
else:

    def value(*, frozen: bool, **options: Any) -> Callable[[type], type]:
        """As ``dataclass``, for values of our own code only: mypy holds ``frozen``, no instance.

        A freeze at run time makes each field four times as dear to fill (0.18 us in place of 0.04).
        """
        return dataclasses.dataclass(**options, frozen=False, unsafe_hash=frozen)


__all__ = ["value"]
