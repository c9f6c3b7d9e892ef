"""What the outages claim, and how a claim that does not hold is told."""

from __future__ import annotations

from dataclasses import replace

from integration.chaos.outages import Outage
from integration.chaos.plan import SERVICES, Deed, outages
from integration.demo.clusters import KAFKA, MAIN

HELD = Outage(
    server="mongo",
    deed=Deed.FREEZE,
    away_seconds=20.2,
    delivered={"archive": 0, "results": 300, "summaries": 300},
    waiting_bytes=90_000,
    lag_messages=290,
    drained_seconds=8.4,
    committed_seconds=12.3,
)


def test_each_server_is_stopped_and_frozen_and_has_a_sink() -> None:
    planned = outages()
    assert sorted(planned) == sorted(
        (deed, server) for server in SERVICES for deed in (Deed.STOP, Deed.FREEZE)
    )
    assert set(MAIN.servers) == {*SERVICES, KAFKA}


def test_an_outage_that_held_has_no_breach_and_tells_its_numbers() -> None:
    assert HELD.breaches() == []
    assert "mongo freeze 20.2 s: 90000 bytes waited, drained after 8.4 s" in HELD.text()
    assert "290 messages without a commit, committed after 12.3 s" in HELD.text()


def test_each_claim_is_told_when_it_does_not_hold() -> None:
    late = replace(HELD, drained_seconds=None)
    held_up = replace(HELD, committed_seconds=None)
    quiet = replace(HELD, delivered={**HELD.delivered, "results": 0})
    unharmed = replace(HELD, waiting_bytes=0)
    assert late.breaches() == ["not drained 30 s after its return"]
    assert held_up.breaches() == ["its messages not committed 30 s after its return"]
    assert quiet.breaches() == ["results stored nothing meanwhile"]
    (told,) = unharmed.breaches()
    assert told.startswith("nothing waited for archive")
