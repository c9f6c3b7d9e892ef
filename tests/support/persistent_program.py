"""A persistent program that does what its requests say: well, badly, or not at all.

``python -IS persistent_program.py [ready] [mute] [die] [chatty] [unread=FILE]``: says that it is
ready; ``die``: ends at once; ``chatty``: tells much of its progress before it is ready; ``unread``:
ends before it reads a request, unless FILE is there. The first argument of a request names what is
done; standard library only.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any


def say(text: str) -> None:
    """Write to stdout at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def answer(request: dict[str, Any], code: Any = 0, **more: Any) -> None:
    """Answer a request."""
    say(json.dumps({"id": request["id"], "exit_code": code} | more) + "\n")


def serve(request: dict[str, Any]) -> None:
    """Do what the request names."""
    what, *words = request["args"]
    if what == "echo":
        answer(request, stdout=" ".join(words), stderr=f"{os.getpid()}")
    elif what == "env":
        answer(request, stdout=json.dumps([request["env"], sorted(os.environ)]))
    elif what == "stdin":
        kept = {name: request[name] for name in ("stdin", "stdin_base64") if name in request}
        answer(request, stdout=json.dumps(kept))
    elif what == "raw":
        answer(request, **json.loads(words[0]))
    elif what == "line":
        say(words[0].replace("ID", request["id"]) + "\n")
    elif what == "bytes":
        sys.stdout.buffer.write(bytes.fromhex(words[0]))
        sys.stdout.buffer.flush()
    elif what == "stderr":
        os.write(2, words[0].encode())
        answer(request)
    elif what == "code":
        answer(request, int(words[0]))
    elif what == "sleep":
        os.write(2, b"sleeping\n")
        time.sleep(float(words[0]))
        answer(request)
    elif what == "progress":
        os.write(int(request["env"]["DRAKKAR_PROGRESS_FD"]), words[0].encode())
        answer(request, stdout=words[0])
    elif what == "variable":
        answer(request, stdout=os.environ.get(words[0], "none"))
    elif what == "tick":
        for number in range(100):
            os.write(2, b"tick %d\n" % number)
            os.write(3, b'{"progress": %.2f}\n' % (number / 100))
            time.sleep(0.05)
        answer(request)
    elif what == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.write(2, b"stubborn\n")
        time.sleep(60)
    elif what == "ignore_and_answer":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(float(words[0]))
        answer(request, stdout="late")
    elif what == "exit":
        os.write(2, b"last words\n")
        os._exit(int(words[0]))
    elif what == "answer_and_exit":
        answer(request, stdout="done")
        os._exit(0)
    elif what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "close":
        os.close(int(words[0]))
        time.sleep(60)
    elif what == "flood":
        block = words[0].encode() * 65_536
        while True:
            os.write(1, block)
    elif what == "twice":
        line = json.dumps({"id": request["id"], "exit_code": 0}) + "\n"
        say(line + line)
    elif what == "later":
        answer(request)
        os.write(1, b"between requests\n")
        os._exit(5)
    elif what == "child":
        if os.fork() == 0:
            os.execvp("sleep", ["sleep", words[0]])
        answer(request)
    elif what == "burn":
        until = time.process_time() + float(words[0])
        while time.process_time() < until:
            pass
        answer(request)


def main() -> None:
    """Answer requests until stdin ends."""
    if "die" in sys.argv:
        os.write(2, b"no model here\n")
        os._exit(3)
    for word in sys.argv:
        name, _, file = word.partition("=")
        if name == "unread" and not Path(file).exists():
            Path(file).touch()
            time.sleep(0.2)
            os._exit(3)
    if "chatty" in sys.argv:
        for number in range(10_000):
            os.write(3, b'{"progress": %.4f}\n' % (number / 10_000))
    if "early" in sys.argv:
        say('{"id": "1", "exit_code": 0}\n')
    if "ready" in sys.argv:
        time.sleep(0.2)
        say('{"ready": true}\n')
    for line in sys.stdin:
        serve(json.loads(line))


if __name__ == "__main__":
    main()
