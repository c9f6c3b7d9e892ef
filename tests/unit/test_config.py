"""Reading the configuration: folding, typing, masking, and each error with its id and hint."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from domain.group_rule import GroupRule
from domain.problem import Problem
from drakkar_site.checks import programs
from drakkar_site.config.exposure import exposed_key
from drakkar_site.config.report import effective
from drakkar_site.config.sources import State, load
from sinks.backends.postgres import PostgresSinkConfig
from workers.runtime.build import describe_run

ROOT = Path(__file__).resolve().parents[2]
KEY = "development-only-change-me-before-anyone-else"
GOOD: dict[str, Any] = {
    "site": {"database_url": "postgresql://u@127.0.0.1/d", "secret_key": KEY},
    "clusters": {
        "main": {
            "handler": "integration.handlers.main:SearchHandler",
            "kafka": {"topic": "t", "group": "g", "client": {"security.protocol": "PLAINTEXT"}},
            "sinks": {"fast-one": {"kind": "kafka", "topic": "out"}},
        }
    },
}
Loader = Callable[..., State]


@pytest.fixture
def loaded(tmp_path: Path) -> Loader:
    """Loads a file of that text (default: a good one) under that environment."""

    def load_it(text: str = yaml.safe_dump(GOOD), **environment: str) -> State:
        path = tmp_path / "drakkar.yaml"
        path.write_text(text)
        return load({"DRAKKAR_CONFIG": str(path), **environment})

    return load_it


TRUE = {"binary": "/bin/true"}


def changed(**sections: Any) -> str:
    """The good file with keys of cluster ``main`` replaced."""
    main = GOOD["clusters"]["main"] | sections
    return yaml.safe_dump({"site": GOOD["site"], "clusters": {"main": main}})


def main(state: State) -> Any:
    assert state.problems == ()
    assert state.config is not None
    return state.config.clusters["main"]


def only(state: State) -> Problem:
    (problem,) = state.problems
    assert state.config is None
    return problem


@pytest.mark.parametrize(
    "name",
    [
        "DRAKKAR_CLUSTERS__MAIN__SINKS__FAST_ONE__TOPIC",
        "drakkar_clusters__main__sinks__fast-one__topic",
        "Drakkar_Clusters__Main__Sinks__Fast_One__Topic",
    ],
)
def test_names_fold_to_the_keys_of_the_file(loaded: Loader, name: str) -> None:
    state = loaded(**{name: "over"})
    assert main(state).sinks["fast-one"].topic == "over"
    assert state.origins[("clusters", "main", "sinks", "fast-one", "topic")] == name


def test_environment_reaches_client_keys_and_makes_new_ones(loaded: Loader) -> None:
    start = "DRAKKAR_CLUSTERS__MAIN__KAFKA__CLIENT__"
    state = loaded(**{f"{start}SECURITY_PROTOCOL": "SSL", f"{start}SSL_CA_LOCATION": "/ca"})
    assert main(state).kafka.client == {"security.protocol": "SSL", "ssl.ca.location": "/ca"}


def test_names_of_the_childs_environment_keep_their_case(loaded: Loader) -> None:
    state = loaded(DRAKKAR_CLUSTERS__MAIN__EXECUTOR__ENV__Some_Name="1")
    assert main(state).executor.env == {"Some_Name": "1"}


def test_a_groups_entry_is_laid_over_that_of_all_groups(loaded: Loader) -> None:
    groups = {"*": {"max_running": 8, "weight": 2}, "acme": {"weight": 4}}
    text = changed(executor={"groups": groups})
    executor = main(
        loaded(text, DRAKKAR_CLUSTERS__MAIN__EXECUTOR__GROUPS__Big_One="{max_running: null}")
    ).executor
    assert executor.group_rule("acme") == GroupRule(max_running=8, weight=4)
    assert executor.group_rule("Big_One") == GroupRule(max_running=None, weight=2)
    assert executor.group_rule("any") == GroupRule(max_running=8, weight=2)


def test_persistent_processes_need_a_program(loaded: Loader) -> None:
    (problem,) = loaded(changed(executor={"mode": "persistent"})).problems
    assert problem.id == "drakkar.E012"
    assert problem.key == "clusters.main.executor.mode"
    assert "executor.binary set to the program" in problem.expected
    assert problem.got == "'persistent'"
    given = changed(executor={"mode": "persistent", "binary": "sh", "persistent": {"args": ["-s"]}})
    assert main(loaded(given)).executor.persistent.args == ("-s",)


def test_a_sink_may_come_from_the_environment_alone(loaded: Loader) -> None:
    start = "DRAKKAR_CLUSTERS__MAIN__SINKS__STORE__"
    values = {"KIND": "postgres", "DSN": "postgresql://x", "TABLE": "t", "DEDUP": "true"}
    sink = main(loaded(**{start + name: value for name, value in values.items()})).sinks["store"]
    assert isinstance(sink, PostgresSinkConfig)
    assert (sink.dedup, sink.table) == (True, "t")


def test_values_get_the_type_of_their_field(loaded: Loader) -> None:
    cluster = main(
        loaded(
            changed(executor={"binary": "rg"}),
            DRAKKAR_CLUSTERS__MAIN__EXECUTOR__MAX_EXECUTORS="8",
            DRAKKAR_CLUSTERS__MAIN__EXECUTOR__BINARY="null",
            DRAKKAR_CLUSTERS__MAIN__EXECUTOR__ENV_PASS="[PATH, TZ]",
            DRAKKAR_CLUSTERS__MAIN__EXECUTOR__ENV="{DEPTH: '1.50'}",
            DRAKKAR_CLUSTERS__MAIN__KAFKA__TOPIC="0123",
        )
    )
    assert (cluster.executor.max_executors, cluster.executor.binary) == (8, None)
    assert cluster.executor.env_pass == ("PATH", "TZ")
    assert cluster.executor.env == {"DEPTH": "1.50"}
    assert cluster.kafka.topic == "0123"


def test_a_reference_is_masked_under_any_key(loaded: Loader, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("opensesame\n")
    text = changed(
        app={"greeting": "hi ${WHO}", "list": ["plain", "${WHO}"]},
        kafka={"topic": f"${{file:{tmp_path}/secret}}", "group": "g"},
    )
    state = loaded(text, WHO="alibaba1")
    cluster = main(state)
    assert (cluster.app["greeting"], cluster.kafka.topic) == ("hi alibaba1", "opensesame")
    assert state.config is not None
    shown = {each.key: each.value for each in effective(state.config, state.origins, state.secrets)}
    assert shown["clusters.main.app.greeting"] == shown["clusters.main.kafka.topic"] == "***"
    assert shown["clusters.main.app.list"] == ["plain", "***"]
    run = describe_run(
        cluster, "main", "w", environ={}, isolation="", secret_keys=state.secret_keys("main")
    )
    assert (run.config["app"]["greeting"], run.config["kafka"]["topic"]) == ("***", "***")
    assert "alibaba1" not in str(run)
    assert "opensesame" not in str(run)


def test_a_secret_stays_out_of_every_problem(loaded: Loader) -> None:
    text = changed(
        handler="no.such.${WHO}:Thing",
        executor={"max_executors": "${WHO}", "binary": "/bin/${WHO}"},
    )
    state = loaded(text, WHO="alibaba1")
    found = [*state.problems, *programs(state)]
    assert {each.id for each in found} == {"drakkar.E012", "drakkar.E020", "drakkar.E030"}
    assert [each for each in found if "alibaba1" in str(each)] == []


def test_every_error_is_kept(loaded: Loader) -> None:
    state = loaded(
        changed(handler=5, kafka={"topic": "", "grup": "g"}, batch={"linger_ms": -1}),
        DRAKKAR_SITE__BIND="nowhere",
    )
    assert {each.key.split(" ")[0] for each in state.problems} == {
        "site.bind",
        "clusters.main.handler",
        "clusters.main.kafka.topic",
        "clusters.main.kafka.group",
        "clusters.main.kafka.grup",
        "clusters.main.batch.linger_ms",
    }


def test_a_later_layer_hides_nothing_of_the_section_below(loaded: Loader) -> None:
    text = changed(executor={"max_executors": 2, "max_retries": 7})
    cluster = main(loaded(text, DRAKKAR_CLUSTERS__MAIN__EXECUTOR="{max_executors: 3}"))
    assert (cluster.executor.max_executors, cluster.executor.max_retries) == (3, 7)


VARIABLE = "DRAKKAR_CLUSTERS__MAIN__EXECUTOR__MAX_EXECUTOR"
ERRORS = [
    ("site: [", {}, "drakkar.E002", "drakkar.yaml, line 1", "valid YAML", "this line"),
    ("[1]", {}, "drakkar.E002", "drakkar.yaml", "a mapping with 'site'", ""),
    (
        yaml.safe_dump(GOOD) + f"  secret_key: {KEY}\n",
        {},
        "drakkar.E003",
        "drakkar.yaml, line 16",
        "each key once (first on line 15), got 'secret_key' again",
        "delete one of them",
    ),
    (None, {"DRAKKAR_CLUSTER__A__B": "1"}, "drakkar.E004", "DRAKKAR_CLUSTER__A__B", "", "CLUSTERS"),
    (None, {"DRAKKAR_CONFGI": "x"}, "drakkar.E004", "DRAKKAR_CONFGI", "", "mean DRAKKAR_CONFIG?"),
    (
        None,
        {"DRAKKAR_CLUSTERS_MAIN": "x"},
        "drakkar.E004",
        "DRAKKAR_CLUSTERS_MAIN",
        "",
        "mean DRAKKAR_CLUSTERS__MAIN?",
    ),
    (
        None,
        {"DRAKKAR_CLUSTERS__MAIN__HANDLER__X": "x"},
        "drakkar.E004",
        "DRAKKAR_CLUSTERS__MAIN__HANDLER__X",
        "clusters.main.handler to be a mapping",
        "as in",
    ),
    (changed(app={"a": "${NONE}"}), {}, "drakkar.E005", "clusters.main.app.a", "${NONE}", "set"),
    (
        changed(executor={"limits": {"cpu_seconds": 2**62}}),
        {},
        "drakkar.E012",
        "clusters.main.executor.limits.cpu_seconds",
        "",
        "",
    ),
    (
        changed(executor={"limits": {"memory_bytes": 2**63}}),
        {},
        "drakkar.E012",
        "clusters.main.executor.limits.memory_bytes",
        "",
        "",
    ),
    *(
        (
            changed(executor={"groups": {"acme": {"weight": weight}}}),
            {},
            "drakkar.E012",
            "clusters.main.executor.groups.acme.weight",
            said,
            "",
        )
        for weight, said in (
            (-1, "0.01 or more, got -1"),
            (0, "0.01 or more, got 0"),
            (float("nan"), "finite number, got nan"),
            (float("inf"), "got inf"),
            (101, "100.0 or less, got 101"),
        )
    ),
    (
        changed(executor={"groups": {"acme": {"max_running": 0}}}),
        {},
        "drakkar.E012",
        "clusters.main.executor.groups.acme.max_running",
        "1 or more, got 0",
        "",
    ),
    (
        changed(executor={"groups": {"acme": {"wieght": 2}}}),
        {},
        "drakkar.E010",
        "clusters.main.executor.groups.acme.wieght",
        "a known key, got 'wieght'",
        "did you mean weight?",
    ),
    (
        changed(executor={"keys": {"max_running_per_key": 0}}),
        {},
        "drakkar.E012",
        "clusters.main.executor.keys.max_running_per_key",
        "1 or more, got 0",
        "",
    ),
    (
        None,
        {"DRAKKAR_CLUSTERS__MIAN__KAFKA__TOPIC": "x"},
        "drakkar.E006",
        "clusters.mian (from DRAKKAR_CLUSTERS__MIAN__KAFKA__TOPIC)",
        "a cluster of the file (main), got 'mian'",
        "did you mean main?",
    ),
    (
        None,
        {"DRAKKAR_CLUSTERS__MAIN__SINKS__FAST_ON__TOPIC": "x"},
        "drakkar.E006",
        "clusters.main.sinks.fast_on (from DRAKKAR_CLUSTERS__MAIN__SINKS__FAST_ON__TOPIC)",
        "a sink of the file (fast-one)",
        "did you mean fast-one?",
    ),
    (
        None,
        {VARIABLE: "8"},
        "drakkar.E010",
        f"clusters.main.executor.max_executor (from {VARIABLE})",
        "a known key, got 'max_executor'",
        "did you mean max_executors?",
    ),
    (
        changed(sinks={"o": {"kind": "kafka", "topic": "t", "linger": 1}}),
        {},
        "drakkar.E010",
        "clusters.main.sinks.o.linger",
        "a known key",
        "did you mean linger_ms?",
    ),
    (changed(kafka={"topic": "t"}), {}, "drakkar.E011", "clusters.main.kafka.group", "a value", ""),
    (
        None,
        {"DRAKKAR_CLUSTERS__MAIN__EXECUTOR__MAX_EXECUTORS": "-1"},
        "drakkar.E012",
        "clusters.main.executor.max_executors (from DRAKKAR_CLUSTERS__MAIN__EXECUTOR__MAX_EXEC",
        "1 or more, got '-1'",
        "docs/configuration.md",
    ),
    (
        changed(sinks={"o": {"kind": "kafak"}}),
        {},
        "drakkar.E013",
        "clusters.main.sinks.o.kind",
        "one of file, http, kafka",
        "drakkar.sinks",
    ),
    (changed(sinks={"o": {}}), {}, "drakkar.E013", "clusters.main.sinks.o.kind", "'kind'", ""),
]


@pytest.mark.parametrize(("text", "environment", "number", "key", "said", "hint"), ERRORS)
def test_each_error_has_its_id_key_and_hint(
    loaded: Loader,
    text: str | None,
    environment: dict[str, str],
    number: str,
    key: str,
    said: str,
    hint: str,
) -> None:
    given = (text,) if text is not None else ()
    problem = only(loaded(*given, **environment))
    assert problem.id == number
    assert key in problem.key
    assert said in str(problem)
    assert hint in problem.hint


def test_a_named_file_must_be_there_and_the_default_one_need_not(tmp_path: Path) -> None:
    assert load({"DRAKKAR_CONFIG": str(tmp_path / "none.yaml")}).problems[0].id == "drakkar.E001"


@pytest.mark.parametrize(
    ("sections", "number", "said"),
    [
        ({"handler": "no.such:Handler"}, "drakkar.E020", "importable"),
        ({"handler": "pathlib:Path"}, "drakkar.E021", "a Handler class"),
        ({"app": {"fail_chance": 5}}, "drakkar.E022", "clusters.main.app.fail_chance"),
        ({"executor": {"binary": "/no/such/program"}}, "drakkar.E030", "missing"),
        ({"executor": {"cwd": "/no/such/folder"}}, "drakkar.E033", "a directory"),
        ({"executor": {"binary": "./README.md"}}, "drakkar.E031", "not executable"),
        ({}, "drakkar.E032", "a program, since the handler's tasks name none"),
        ({"executor": TRUE, "retry": {"topic": "t"}}, "drakkar.E034", "topic of source"),
        ({"executor": TRUE, "retry": {"topic": "t_dlq"}}, "drakkar.E034", "topic of dead letters"),
    ],
)
def test_check_names_what_a_worker_could_not_start_with(
    loaded: Loader, sections: dict[str, Any], number: str, said: str
) -> None:
    (problem,) = programs(loaded(changed(**sections)))
    assert problem.id == number
    assert said in str(problem)
    assert problem.hint


def test_a_module_that_exits_at_import_ends_nothing_in_silence(
    loaded: Loader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a worker would end at once and say that all is well."""
    (tmp_path / "exits_at_import.py").write_text("raise SystemExit(0)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    (problem,) = programs(loaded(changed(handler="exits_at_import:Handler")))
    assert problem.id == "drakkar.E020"
    assert "SystemExit: 0" in str(problem)


@pytest.mark.parametrize(
    ("key", "url", "number"),
    [
        ("development-only-" + "k" * 40, "https://drakkar.example", "drakkar.E040"),
        ("development-only-" + "k" * 40, "http://[::1]:8000", None),
        ("k" * 50, "https://drakkar.example", None),
    ],
)
def test_a_key_that_ships_is_for_this_machine_only(
    loaded: Loader, key: str, url: str, number: str | None
) -> None:
    site = {**GOOD["site"], "secret_key": key, "public_url": url}
    config = loaded(yaml.safe_dump({**GOOD, "site": site})).config
    assert config is not None
    problem = exposed_key(config.site)
    assert (problem and problem.id) == number


def test_every_id_is_tested_here_and_described() -> None:
    sources = [*ROOT.glob("drakkar_site/**/*.py"), ROOT / "workers/runtime/preflight.py"]
    text = "\n".join(path.read_text() for path in sources)
    used = set(re.findall(r'"drakkar\.(E\d{3})"', text))
    used |= {f"E{int(number):03}" for number in re.findall(r"fault\((\d+),", text)}
    page = (ROOT / "docs/configuration.md").read_text()
    assert set(re.findall(r"^\| `drakkar\.(E\d{3})`", page, re.MULTILINE)) == used
    assert {number for number in used if number not in Path(__file__).read_text()} == set()


@pytest.mark.parametrize(
    ("keep", "wrong"),
    [
        (["failed"], "lettered among them"),
        (["lettered", "slow"], "failed among them"),
        (["failed", "lettered", "odd"], "odd is none"),
        (["failed", "lettered", "label=tenant"], "label=tenant is none"),
    ],
)
def test_a_rule_of_sampling_that_is_none_is_named(
    loaded: Loader, keep: list[str], wrong: str
) -> None:
    problem = only(loaded(changed(recorder={"sample": {"one_in": 10, "keep": keep}})))
    assert str(problem).startswith("clusters.main.recorder.sample.keep: expected ")
    assert wrong in str(problem)


def test_labels_by_which_messages_are_kept_may_have_any_value(loaded: Loader) -> None:
    keep = ["failed", "lettered", "label=tenant:acme:eu", "label=a:="]
    config = main(loaded(changed(recorder={"sample": {"one_in": 10, "keep": keep}})))
    assert config.recorder.sample.labels == (("tenant", "acme:eu"), ("a", "="))
