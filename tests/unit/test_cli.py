"""The command line: its help, and what a module of an extra needs."""

from __future__ import annotations

import pytest

from drakkar import cli


def test_the_help_names_every_command_of_ours() -> None:
    text = cli.help_text("drakkar")
    for command in cli.COMMANDS:
        assert f"  {command.name} " in text
        assert command.summary in text


def test_what_an_extra_brings_is_named_where_it_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = cli.Command(cli.Section.PROJECT, "dev", "x", "nowhere_at_all", extra="demo")
    monkeypatch.setattr(cli, "COMMANDS", (missing,))
    with pytest.raises(SystemExit) as ended:
        cli.main(["drakkar", "dev"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "expected the package nowhere_at_all" in said
    assert "pip install 'drakkar[demo]'" in said
