"""``site.notify``: receivers by name, whose addresses are secrets."""

from __future__ import annotations

from pathlib import Path

import pytest

from drakkar_site.config.report import effective
from drakkar_site.config.sources import State, load
from workers.control_plane.notify.receivers import notifying_of

SITE = """
site:
  database_url: postgres://u:p@localhost/d
  secret_key: 0123456789012345678901234567890123456789
  public_url: https://drakkar.example/
  notify:
    receivers:
      ops:
        apprise_url: slack://token-a/token-b/token-c
        min_severity: page
        quiet_hours: {since: "22:00", until: "07:00", zone: Europe/Berlin}
"""


def state(tmp_path: Path, text: str, **environment: str) -> State:
    path = tmp_path / "drakkar.yaml"
    path.write_text(text)
    return load({"DRAKKAR_CONFIG": str(path), **environment})


def test_a_receiver_is_read_and_its_address_shown_nowhere(tmp_path: Path) -> None:
    found = state(tmp_path, SITE, DRAKKAR_SITE__NOTIFY__SETTLE_SECONDS="5")
    assert found.problems == ()
    assert found.config is not None
    (receiver,) = notifying_of(found.config.site).receivers
    assert (receiver.name, receiver.shown) == ("ops", "slack://***")
    assert "token-a" not in repr(receiver) + repr(found.config)
    rows = {each.key: each for each in effective(found.config, found.origins, found.secrets)}
    assert rows["site.notify.receivers.ops.apprise_url"].value == "***"
    assert notifying_of(found.config.site).rules.settle_seconds == 5
    assert notifying_of(found.config.site).site_url == "https://drakkar.example"


def test_the_environment_gives_the_address(tmp_path: Path) -> None:
    variable = "DRAKKAR_SITE__NOTIFY__RECEIVERS__OPS__APPRISE_URL"
    found = state(tmp_path, SITE, **{variable: "json://other"})
    assert found.config is not None
    assert found.config.site.notify.receivers["ops"].apprise_url == "json://other"


@pytest.mark.parametrize(
    ("before", "after", "key"),
    [
        ("slack://token-a/token-b/token-c", "token-a", "receivers.ops.apprise_url"),
        ("min_severity: page", "min_severity: bad", "receivers.ops.min_severity"),
        ("Europe/Berlin", "Nowhere", "receivers.ops.quiet_hours.zone"),
        ('"22:00"', "x", "receivers.ops.quiet_hours.since"),
    ],
)
def test_what_is_wrong_is_named_without_the_address(
    before: str, after: str, key: str, tmp_path: Path
) -> None:
    (problem,) = state(tmp_path, SITE.replace(before, after)).problems
    assert problem.key == f"site.notify.{key}"
    assert "token-a" not in str(problem)
