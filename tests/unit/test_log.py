from __future__ import annotations

import json

from tests.support.logs import captured_logs
from workers.log import Line, Log, as_json, as_text

SECRET = "s3cr3t-in-a-url"


def logged(level: str = "INFO", **bound: str) -> tuple[Log, list[Line]]:
    lines: list[Line] = []
    log = Log()
    log.configure(lines.append, level, **bound)
    return log, lines


def test_a_line_says_what_when_how_loud_and_of_whom() -> None:
    log, lines = logged(cluster="main", worker="w-1")
    log.warning("commit_failed", code="X", level="field of that name")
    (line,) = lines
    assert {**line, "timestamp": ""} == {
        "cluster": "main",
        "worker": "w-1",
        "code": "X",
        "event": "commit_failed",
        "level": "warning",
        "timestamp": "",
    }
    assert line["timestamp"].endswith("Z")


def test_what_is_not_loud_enough_is_left_out() -> None:
    log, lines = logged("WARNING")
    log.info("quiet")
    log.warning("loud")
    log.error("louder")
    assert [line["level"] for line in lines] == ["warning", "error"]


def test_a_traceback_is_bounded_and_without_secrets() -> None:
    log, lines = logged()
    try:
        raise LookupError(f"postgresql://u:{SECRET}@db/x" + "x" * 100_000)
    except LookupError as exc:
        log.error("close_failed", exc_info=exc)
    (line,) = lines
    assert "LookupError" in line["exception"]
    assert SECRET not in line["exception"]
    assert len(line["exception"]) < 20_000
    assert "exc_info" not in line


def test_both_forms_stand_on_one_line_whatever_a_field_holds() -> None:
    log, lines = logged()
    log.info("waiting", waiting_for="a\nb", what=object)
    (line,) = lines
    assert json.loads(as_json(line))["waiting_for"] == "a\nb"
    assert "waiting_for='a\\nb'" in as_text(line)
    assert "\n" not in as_json(line) + as_text(line)


def test_text_has_the_traceback_below() -> None:
    text = as_text({"event": "e", "level": "error", "timestamp": "t", "exception": "Trace\nback"})
    assert text == "t [error  ] e\nTrace\nback"


def test_captured_lines_reach_no_log() -> None:
    from workers.log import log

    with captured_logs() as lines:
        log.info("one")
    assert [line["event"] for line in lines] == ["one"]
