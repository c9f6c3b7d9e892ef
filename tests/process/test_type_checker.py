"""The promise of ``domain.value`` to the type checker, kept by a real mypy."""

from __future__ import annotations

import os
from pathlib import Path

from mypy import api


def test_the_type_checker_refuses_to_change_a_value(tmp_path: Path) -> None:
    program = (
        "from domain.value import value\n"
        "@value(frozen=True, slots=True, kw_only=True)\n"
        "class Point:\n"
        "    x: int\n"
        "Point(x=1).x = 2\n"
    )
    options = ["--strict", f"--config-file={os.devnull}", f"--cache-dir={tmp_path}"]
    said, _, code = api.run([*options, "-c", program])
    assert code == 1, said
    assert '<string>:5: error: Property "x" defined in "Point" is read-only' in said
