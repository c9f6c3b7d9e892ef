"""The Dockerfile: two stages, no root, a health check, and nothing copied that is not there."""

from __future__ import annotations

from tests.support.deployments import ROOT
from tests.support.images import steps


def instructions() -> list[tuple[str, str]]:
    """Each instruction as its name and its arguments, continued lines joined."""
    return steps((ROOT / "Dockerfile").read_text())


def last_stage() -> dict[str, str]:
    """The last arguments of each instruction of the stage that becomes the image."""
    found = instructions()
    start = max(at for at, (name, _) in enumerate(found) if name == "FROM")
    return dict(found[start:])


def test_the_second_stage_takes_what_the_first_built() -> None:
    stages = [rest.split() for name, rest in instructions() if name == "FROM"]
    assert [stage[1:] for stage in stages] == [["AS", "build"], []]
    assert stages[0][0] == stages[1][0]


def test_it_does_not_run_as_root() -> None:
    user = last_stage()["USER"]
    assert user not in {"root", "0"}
    made = [rest for name, rest in instructions() if name == "RUN" and "useradd" in rest]
    assert [rest.split()[-1] for rest in made] == [user]
    assert "--uid 10001" in made[0]


def test_its_health_check_runs_a_program_that_is_there() -> None:
    check = last_stage()["HEALTHCHECK"]
    program = check.split('"')[3]
    # From the root: an image of a user's has another working directory.
    assert program.startswith("/app/")
    assert (ROOT / program.removeprefix("/app/")).is_file()


def test_what_it_copies_is_there() -> None:
    copies = [rest.split() for name, rest in instructions() if name == "COPY"]
    assert len(copies) == 9
    for words in copies:
        options = [word for word in words if word.startswith("--")]
        *sources, _ = [word for word in words if word not in options]
        assert sources
        if "--from=build" in options:
            made = " ".join(rest for name, rest in instructions() if name == "RUN")
            assert all(f"venv {source}" in made or f"-o {source}" in made for source in sources)
        else:
            assert all((ROOT / source).exists() for source in sources)


def test_the_list_of_its_packages_is_of_what_runs() -> None:
    made = [rest for name, rest in instructions() if name == "RUN" and "sbom.py" in rest]
    assert [rest.split()[-1] for rest in made] == ["/venv"]
    assert "/build/drakkar.cdx.json /usr/share/doc/drakkar/" in (ROOT / "Dockerfile").read_text()
