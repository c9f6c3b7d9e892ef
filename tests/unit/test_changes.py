"""What differs between two runs: keys of the configuration, versions."""

from __future__ import annotations

from domain.changes import MAX_CHANGES, MAX_VALUE_CHARS, Change, config_changes, version_changes

BEFORE = {
    "executor": {"max_executors": 4, "env": {"DEPTH": "1", "GONE": "x"}, "cwd": None},
    "metrics": {"port": 1},
    "recorder": {"spool_dir": "/a", "store_output": True},
    "app": {"names": ["a", "b"]},
}


def test_each_key_is_told_with_its_old_and_its_new_value() -> None:
    after = {
        **BEFORE,
        "executor": {"max_executors": 8, "env": {"DEPTH": "1", "MORE": "y"}, "cwd": "/srv"},
        "app": {"names": ["a", "c"]},
    }
    assert config_changes(BEFORE, after) == (
        Change("app.names", '["a", "b"]', '["a", "c"]'),
        Change("executor.cwd", "null", '"/srv"'),
        Change("executor.env.GONE", '"x"', None),
        Change("executor.env.MORE", None, '"y"'),
        Change("executor.max_executors", "4", "8"),
    )


def test_where_a_process_listens_and_spools_is_no_change() -> None:
    elsewhere = {"metrics": {"port": 2}, "recorder": {"spool_dir": "/b", "store_output": True}}
    assert config_changes(BEFORE, BEFORE | elsewhere) == ()


def test_a_long_value_is_cut_after_it_was_compared() -> None:
    text = "x" * 10_000
    (change,) = config_changes({"app": {"t": f"{text}a{text}"}}, {"app": {"t": f"{text}b{text}"}})
    assert change.old is not None
    assert len(change.old) < MAX_VALUE_CHARS + 50


def test_the_number_of_changes_is_bounded() -> None:
    assert len(config_changes({}, {"app": {str(n): n for n in range(1000)}})) == MAX_CHANGES


def test_a_control_character_of_a_value_is_written_as_its_escape() -> None:
    (change,) = config_changes({}, {"app": {"a\x1b": "b\u202e"}})
    assert change == Change("app.a\\x1b", None, '"b\\u202e"')


def test_an_unknown_version_is_none() -> None:
    old = {"handler": "", "program": "1", "drakkar": "3"}
    new = {"handler": "ab", "program": "", "drakkar": "3"}
    assert version_changes(old, new) == (
        Change("handler", None, "ab"),
        Change("program", "1", None),
    )
