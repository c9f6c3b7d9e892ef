"""A program for ``executor.mode: persistent``; copy ``serve`` and give it your own function."""

from __future__ import annotations

import base64
import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence

Run = Callable[[Sequence[str], bytes, Mapping[str, str]], bytes]


def serve(run: Run) -> None:
    """Answer requests until stdin ends: ``run(args, stdin, env)`` returns the task's stdout."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # What anything else prints goes to the task's stderr.
    print('{"ready": true}', file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        given = request.get("stdin_base64")
        stdin = base64.b64decode(given) if given else request.get("stdin", "").encode()
        answer = {"id": request["id"], "exit_code": 0}
        try:
            stdout = run(request["args"], stdin, request["env"])
            answer["stdout_base64"] = base64.b64encode(stdout).decode()
        except Exception:  # noqa: BLE001 - a failed task ends no process
            answer |= {"exit_code": 1, "stderr": traceback.format_exc()}
        sys.stdout.flush()
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    # The model is loaded here, once: before ``serve`` says that it is ready.
    serve(lambda args, stdin, env: b"%d words\n" % len(stdin.split()))
