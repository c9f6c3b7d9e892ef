"""What a chart says, asked of its module in a real browser."""

from __future__ import annotations

from typing import Any

import pytest

from tests.browser.conftest import Reader

pytestmark = pytest.mark.django_db(transaction=True)

CASES: list[tuple[str, Any]] = [
    ("m.said(null, 'per second')", "unknown"),
    ("m.said(0, 'per second')", "0/s"),
    ("m.said(1234.5, 'per second')", "1,230/s"),
    ("m.said(0.0123, 'cores')", "0.0123 cores"),
    ("m.said(1420, 'ms')", "1.42 s"),
    ("m.said(3 * 2 ** 20, 'bytes')", "3 MiB"),
    ("m.onAxis(25000, 'per second')", "25k"),
    ("m.onAxis(0, 'ms')", "0"),
    ("m.hue({ status: 'failed' }, 0)", "--failed"),
    ("m.hue({ status: '' }, 7)", "--k8"),
    ("m.hue({ status: '' }, 8)", "--waiting"),
    ("m.span([null, 2, 4, null])", {"least": 2, "mean": 3, "most": 4}),
    ("m.span([null, null])", None),
    ("m.alone([null, 1, null, 2, 3, null, 4])", [1, 6]),
    ("m.newest([{ values: [1, 2, null] }, { values: [1, null, null] }], 3)", 1),
    ("m.newest([{ values: [null, null] }], 2)", 1),
    ("m.near([{ at: 100, until: null }, { at: 9, until: 95 }, { at: 9, until: 50 }], 99, 5).length",
     2),
    ("m.stretch(130, 61)", [60, 180]),
    ("m.stretch(60, 61)", [60, 180]),
    ("m.zoomed(0, 3600, 900, .5)", [0, 1800]),
    ("m.zoomed(0, 3600, 3600, .5)", [1800, 3600]),
    ("m.zoomed(3600, 7200, 0, 2)", [1800, 9000]),
    ("m.within('range=7d&cluster=main', 0, 3600).toString()",
     "cluster=main&since=1970-01-01T00%3A00&until=1970-01-01T01%3A00"),
    ("m.history('cluster=main&range=1h&split=host', 60, 60, ['task_failed'])",
     "/history?cluster=main&since=1970-01-01T00%3A01&until=1970-01-01T00%3A02&kind=task_failed"),
]  # fmt: skip


def test_figures_colours_marks_and_where_zooming_leads(reader: Reader) -> None:
    """All in one page: each case is an expression of the module, and what it is."""
    script = "import('/static/drakkar/chart-model.js').then((m) => [{}])"
    told = reader.page.evaluate(script.format(", ".join(case for case, _ in CASES)))
    assert dict(zip((case for case, _ in CASES), told, strict=True)) == dict(CASES)
