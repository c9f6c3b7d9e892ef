"""``healthy.py [port]``: exit code 0 when ``/healthz`` on this host answers 200, by IPv4 or IPv6.

The port is ``HEALTH_PORT``'s unless given; for containers, which need no curl for it.
"""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request

TIMEOUT_SECONDS = 4


def main() -> int:
    """Ask once."""
    port = int(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("HEALTH_PORT", "9090"))
    for host in ("127.0.0.1", "[::1]"):
        try:
            with urllib.request.urlopen(
                f"http://{host}:{port}/healthz", timeout=TIMEOUT_SECONDS
            ) as answer:
                return 0 if answer.status == 200 else 1
        except urllib.error.HTTPError as exc:
            sys.stderr.write(f"{host}: {exc}\n")
            return 1
        except OSError as exc:
            sys.stderr.write(f"{host}: {exc}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
