#!/usr/bin/env python
"""Drakkar's command line: ``manage.py help`` lists the commands."""

import os
import sys


def fill_standard_streams() -> None:
    """Open ``/dev/null`` where the process got no stdin, stdout or stderr.

    Else the next socket gets that number, and what a library prints goes to whom it leads to.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number


if __name__ == "__main__":
    fill_standard_streams()
    from workers.version import said_version

    if said_version(sys.argv):
        raise SystemExit(0)
    is_worker = sys.argv[1:2] == ["runworker"]
    module = "drakkar_site.worker_settings" if is_worker else "drakkar_site.settings"
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", module)
    from django.core.management import execute_from_command_line

    from drakkar_site.config.report import refuse
    from drakkar_site.settings import DRAKKAR_PROBLEMS
    from workers.executor.isolation import hide_from_tasks

    hide_from_tasks()
    refuse(DRAKKAR_PROBLEMS, sys.argv)
    execute_from_command_line(sys.argv)
