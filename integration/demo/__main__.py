"""``python -m integration.demo up | status | stop``: the demo without Docker."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import psutil

from integration.demo.clusters import WORKER_PORTS
from integration.demo.faults import Scenario
from integration.demo.folder import AlreadyRunning, holder, lock, read_state
from integration.demo.plan import Options
from integration.demo.running import RunningDemo
from integration.demo.supervisor import connect, until
from integration.demo.up import Stack
from integration.services.base import ServiceFailed, ServiceUnavailable

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STOP_SECONDS = 50.0
"""What ends after the workers, and what is still starting."""
BAD_USE = 2


class Interrupted(BaseException):
    """Ctrl-C or SIGTERM: the run ends in good order."""


def up(options: Options, scenario: Callable[[RunningDemo], Scenario] | None = None) -> int:
    """Run the demo in the foreground, with a scenario of the caller's; an exit code."""
    held = lock()
    stack = Stack(options)
    try:
        for number in SIGNALS:
            signal.signal(number, _interrupt)
        print("Drakkar demo: starting", flush=True)
        stack.start()
        print(f"\n{stack.table()}\n\nCtrl-C ends everything.", flush=True)
        return stack.watch([scenario(stack.demo())] if scenario else [])
    except Interrupted:
        return 130 if options.until_drained else 0
    except (ServiceFailed, ServiceUnavailable) as exc:
        print(exc, file=sys.stderr)
        return 1
    finally:
        _close(stack)
        held.close()


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted(signal.Signals(number).name)


def _close(stack: Stack) -> None:
    """In good order; at once when a second signal comes."""
    print("Stopping; once more to kill.", flush=True)
    try:
        stack.close()
    except Interrupted:
        stack.kill()


def status() -> int:
    """A line a process; exit code 3 when the demo does not run, or not yet."""
    if holder() is None:
        print("the demo does not run")
        return 3
    try:
        state = read_state()
        processes = connect(Path(state["socket"])).getAllProcessInfo()
    except (OSError, ValueError):
        # Nothing is written yet, or it is of the start before.
        print("the demo is starting")
        return 3
    for info in processes:
        name = info["name"]
        port = state["ports"].get(name, "-")
        version = state["versions"].get(name) or "-"
        print(
            f"{name:<14} {info['statename']:<9} pid {info['pid']:<8} port {port:<6} "
            f"{_memory(info['pid']):>7}  {version}"
        )
    return 0


def _memory(pid: int) -> str:
    """Resident memory of a process and its descendants; ``-`` when it does not run."""
    try:
        root = psutil.Process(pid) if pid else None
        family = [root, *root.children(recursive=True)] if root else []
        resident = sum(one.memory_info().rss for one in family)
    except psutil.Error:
        return "-"
    return f"{resident / 1e6:.0f} MB" if resident else "-"


def stop() -> int:
    """End the running demo, wait for it; exit code 1 when it does not end."""
    pid = holder()
    if pid is None:
        print("the demo does not run")
        return 0
    seconds = STOP_SECONDS + _drain_seconds()
    os.kill(pid, signal.SIGTERM)
    return 0 if until(lambda: holder() is None, seconds) else 1


def _drain_seconds() -> int:
    """Of the slowest worker; 0 while the demo is starting, when none has work yet."""
    try:
        return int(read_state()["drain_seconds"])
    except (OSError, ValueError, KeyError):
        return 0


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


def _setting(text: str) -> tuple[str, str, str]:
    worker, _, pair = text.partition(":")
    key, equals, value = pair.partition("=")
    if worker not in WORKER_PORTS or not key or not equals or "\n" in value:
        raise argparse.ArgumentTypeError(
            f"expected WORKER:KEY=VALUE with WORKER one of {', '.join(WORKER_PORTS)}, got {text!r}"
        )
    return worker, key, value


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(prog="integration.demo", description=__doc__)
    commands = root.add_subparsers(dest="command", required=True)
    commands.add_parser("status", help="a line a process")
    commands.add_parser("stop", help="end the running demo")
    add = commands.add_parser("up", help="run the demo in the foreground").add_argument
    total = int(os.environ.get("TOTAL_MESSAGES", "10000"))
    add("--messages", type=int, default=total, help="default: TOTAL_MESSAGES or 10000")
    add("--speed", type=_positive, default=1.0, help="divides every duration")
    add("--partitions", type=int, default=50)
    add("--slow-percent", type=float, default=3.0)
    add("--seed", type=int, default=1)
    add("--kafka", choices=("auto", "apache", "mock"), default="auto")
    add("--env", type=_setting, action="append", default=[], metavar="WORKER:KEY=VALUE")
    add("--until-drained", action="store_true", help="end with the verdict's exit code")
    add("--report", type=Path, help="where the verdict writes its report")
    add("--full", action="store_true", help="also Prometheus and the MongoDB and Redis browsers")
    add("--kill-worker-at", type=int, metavar="N", help="SIGKILL worker-2 after N fates")
    add("--stop-worker-at", type=int, metavar="N", help="SIGTERM worker-2 after N fates")
    add(
        "--break-program",
        dest="break_program_seconds",
        type=_positive,
        metavar="SECONDS",
        help="have the program of main fail so long, after 100 fates; see /failures",
    )
    add("--per-second", type=_positive, help="a steady load in place of the phases")
    return root


def main() -> int:
    """Run the command; an exit code."""
    given = vars(parser().parse_args())
    command = given.pop("command")
    try:
        if command == "up":
            return up(Options(**{**given, "env": tuple(given["env"])}))
        return status() if command == "status" else stop()
    except AlreadyRunning as exc:
        print(exc, file=sys.stderr)
        return BAD_USE


if __name__ == "__main__":
    sys.exit(main())
