"""Fifty fixed searches over ten texts beside this module, and the judge of their results.

The texts are data: a change of the product never changes what the demo finds. A test asserts the
spread that the demo needs: enough searches over each threshold, some without a match.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from shutil import which

FAIL_CHANCE = 0.05
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Search:
    """A pattern and a file, relative to the repository."""

    pattern: str
    file_path: str


_TEXTS = (
    "tasks.py.txt",
    "offsets.py.txt",
    "backpressure.py.txt",
    "payload.py.txt",
    "partition.py.txt",
    "worker.py.txt",
    "config.py.txt",
    "handler.py.txt",
    "license.txt",
    "constraints.txt",
)
_PATTERNS = ("self", "def ", "the", "[Aa]", "no such text in this file \\d{9}")

SEARCHES = tuple(
    Search(pattern, f"integration/corpus/texts/{text}") for text in _TEXTS for pattern in _PATTERNS
)


def ripgrep() -> str:
    """The rg program: beside the interpreter, else on PATH. Raises FileNotFoundError."""
    beside = Path(sys.executable).parent / "rg"
    found = str(beside) if beside.exists() else which("rg")
    if found is None:
        raise FileNotFoundError("rg: not found beside the interpreter nor on PATH")
    return found


def match_count(search: Search) -> int:
    """Return how many lines match, by ripgrep itself."""
    command = [ripgrep(), "--no-config", "-c", "-e", search.pattern, "--", search.file_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if done.returncode > 1:
        raise RuntimeError(f"rg failed: {done.stderr.decode()}")
    return int(done.stdout or 0)


def symbol_count(file_path: str) -> int:
    """Return how many characters a file has."""
    return len((ROOT / file_path).read_bytes().decode("utf-8"))


def is_failure_drawn(request_id: str, attempt: int, chance: float = FAIL_CHANCE) -> bool:
    """Whether run-rg fails this attempt: the same draw as the script's."""
    return _cksum(f"{request_id}:{attempt}".encode()) % 10_000 < int(chance * 10_000)


def _cksum(data: bytes) -> int:
    """The CRC of POSIX ``cksum``: the data, then its length, most significant bit first."""
    crc, length = 0, len(data)
    octets = bytearray(data)
    while length:
        octets.append(length & 0xFF)
        length >>= 8
    for octet in octets:
        crc ^= octet << 24
        for _ in range(8):
            crc = (crc << 1 ^ 0x04C11DB7 if crc & 0x80000000 else crc << 1) & 0xFFFFFFFF
    return crc ^ 0xFFFFFFFF
