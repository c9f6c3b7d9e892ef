"""``python program.py [--stay] [--import-seconds N]``: the measured program of ``--persistent``.

It imports json, and does nothing else for a task. ``--stay``: answers the requests of mode
persistent. ``--import-seconds``: stands for a program whose imports take so much CPU time.
"""

import json
import sys
import time


def main() -> None:
    """Import, then answer each request, or end."""
    if "--import-seconds" in sys.argv:
        seconds = float(sys.argv[sys.argv.index("--import-seconds") + 1])
        while time.process_time() < seconds:
            pass
    if "--stay" not in sys.argv:
        return
    answers = sys.stdout
    answers.write('{"ready": true}\n')
    answers.flush()
    for line in sys.stdin:
        answer = {"id": json.loads(line)["id"], "exit_code": 0}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


main()
