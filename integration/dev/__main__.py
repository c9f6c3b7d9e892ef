"""``drakkar dev``: Kafka, Postgres, the page and one worker of yours, until Ctrl-C."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from integration.demo.folder import AlreadyRunning, holder, lock
from integration.dev.plan import Options
from integration.dev.stack import BadUse, DevStack
from integration.services.base import ServiceFailed, ServiceUnavailable

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
BAD_USE = 2


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(
        prog="drakkar dev",
        description="Run the cluster of this folder: Kafka, Postgres, page, controller, a worker "
        "that starts again when a file changes. Ctrl-C ends all of it.",
        epilog="Example: drakkar dev --brokers kafka.example:9092",
    )
    root.add_argument(
        "--cluster", default="", help="a name under `clusters`; default: the only one"
    )
    root.add_argument("--brokers", default="", help="a real Kafka, read as a group of your own")
    root.add_argument("--database-url", default="", help="a Postgres of yours; it is migrated")
    return root


def main(arguments: list[str] | None = None) -> int:
    """Run until a signal: 0 ended by one, 1 a service failed, 2 bad use."""
    given = parser().parse_args(arguments)
    try:
        held = lock()
    except AlreadyRunning:
        sys.stderr.write(
            f"drakkar dev: it runs in this folder (process {holder()}); end it first\n"
        )
        return BAD_USE
    with held:
        try:
            stack = DevStack(Options(**vars(given)), Path.cwd(), dict(os.environ))
        except BadUse as exc:
            sys.stderr.write(f"{exc}\n")
            return BAD_USE
        return _run(stack)


def _run(stack: DevStack) -> int:
    for number in SIGNALS:
        signal.signal(number, _interrupt)
    try:
        print("drakkar dev: starting", flush=True)
        stack.start()
        print(f"\n{stack.table()}\n", flush=True)
        stack.watch()
    except KeyboardInterrupt:
        return 0
    except (ServiceFailed, ServiceUnavailable) as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    finally:
        _close(stack)
    return 0


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _close(stack: DevStack) -> None:
    """In good order; at once when a second signal comes."""
    print("Stopping; once more to kill.", flush=True)
    try:
        stack.close()
    except KeyboardInterrupt:
        stack.kill()


if __name__ == "__main__":
    sys.exit(main())
