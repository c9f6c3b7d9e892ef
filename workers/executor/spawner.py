"""The spawner program, isolated.

``spawner.py <socket fd> <worker pid> <tier> <nice> <slots> <launcher> <number> [<cgroup>]``

``<slots>`` are the numbers of its slots, joined by commas; ``<launcher>`` is ``native`` (where it
was built) or ``python``; ``<number>`` is its own, and ``<cgroup>`` the folder in which its tasks
get cgroups, where they do.

Standard library only. It holds nothing a task could inherit, sees the worker's end as EOF, and
takes the cost of starting processes off the worker's main thread.
"""

from __future__ import annotations

import os
import socket
import sys

# Isolated mode leaves the program's own folder out of the path.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from workers.executor.frames import HELLO
from workers.executor.isolation import yield_session
from workers.executor.keeper import Place, run_kept
from workers.executor.native import make_launcher
from workers.executor.serving import Server
from workers.executor.task_cgroup import CgroupMaker


def main() -> None:
    """Serve the worker named on the command line until it is gone."""
    stream_fd, worker_pid, tier = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    nice, slots = int(sys.argv[4]), [int(number) for number in sys.argv[5].split(",")]
    wanted, number, folder = sys.argv[6], int(sys.argv[7]), sys.argv[8:]
    cgroups = CgroupMaker(folder[0], number) if folder else None
    os.set_inheritable(stream_fd, False)

    def serve(place: Place) -> None:
        launcher = make_launcher(wanted, place.first_mark, place.host_numbers, nice, cgroups)
        launcher.make_room(len(slots))
        server = Server(
            socket.socket(fileno=stream_fd),
            place.keeper_fd,
            launcher,
            place.first_mark,
            place.is_nested,
            slots,
        )
        server.send((HELLO, place.tier, place.host_pid, place.first_mark, launcher.name))
        server.run()

    yield_session(nice)
    run_kept(worker_pid, tier, serve, stream_fd, has_cgroups=cgroups is not None)


if __name__ == "__main__":
    main()
