"""Traceback of an error in a handler, as it is shown, stored and logged."""

from __future__ import annotations

import traceback

from domain.masking import mask_text
from domain.printable import printable_block
from domain.text_bounds import described, shortened

MAX_TRACEBACK = 8000
"""Characters that are kept: both ends, with what was raised at the lower one."""

_MOST_MASKED = 8 * MAX_TRACEBACK


def traceback_of(error: BaseException) -> str:
    """Return the error's traceback within bounds, without secrets and control characters.

    Passwords in addresses, tokens and private keys are masked as everywhere
    (``domain.masking.mask_text``). An error whose traceback cannot be written gives its name.
    """
    try:
        text = "".join(traceback.format_exception(error))
    except Exception:  # noqa: BLE001 - an error of a handler's own may fail at this too
        text = described(error)
    return bounded_traceback(text)


def bounded_traceback(text: str) -> str:
    """Return a traceback's text as ``traceback_of`` does."""
    return printable_block(shortened(mask_text(shortened(text, _MOST_MASKED)), MAX_TRACEBACK))


def error_text(error: BaseException) -> str:
    """Return the error as ``Type: text``, under the rules of ``traceback_of``."""
    return printable_block(mask_text(described(error)))
