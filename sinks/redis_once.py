"""Scripts of the redis sink: what must happen once, and what must happen together.

A marker is a set by the delivery id, whose members say for which sink, op and key it stands: the
same ``delivery_key`` may go to several. A marker that is a text is of a release that kept no
scopes, or of a worker that still runs one: it counts for all, and such a worker takes a set for
its own text. Inside a script nobody else sees what is half done.
"""

from __future__ import annotations

from hashlib import sha256

CHUNK_ARGUMENTS = 1000
"""Arguments of one command inside a script: Lua's stack takes less than 8,000. Even, for pairs."""
MAX_ARGUMENTS = 1_000_000
"""Of one command: servers before 7 close the connection over more than 1,048,576."""
MAX_ARGUMENT_BYTES = 512 * 1024 * 1024
"""Bound of the server itself (``proto-max-bulk-len``), past which it closes the connection."""

_STEPS = """
local function failed(reply) return type(reply) == 'table' and reply.err end
local function chunked(first)
    local command = ARGV[first]
    for from = first + 1, math.max(#ARGV, first + 1), CHUNK do
        local reply = redis.pcall(
            command, KEYS[1], unpack(ARGV, from, math.min(from + CHUNK - 1, #ARGV)))
        if failed(reply) then return reply end
    end
end
local function expire(key, seconds)
    if tonumber(seconds) > 0 then
        local reply = redis.pcall('EXPIRE', key, seconds)
        if failed(reply) then return reply end
    end
end
""".replace("CHUNK", str(CHUNK_ARGUMENTS))

ONCE = (
    _STEPS
    + """
local kind = redis.call('TYPE', KEYS[2]).ok
if kind == 'string' then return 0 end
if kind == 'set' and redis.call('SISMEMBER', KEYS[2], ARGV[2]) == 1 then return 0 end
local noted = redis.pcall('SADD', KEYS[2], ARGV[2])
if failed(noted) then return noted end
local items = ARGV[4] == 'RPUSH' and redis.pcall('LLEN', KEYS[1])
local is_fine, reply = pcall(function()
    return expire(KEYS[2], ARGV[1]) or chunked(4) or expire(KEYS[1], ARGV[3])
end)
if is_fine and not reply then return 1 end
redis.pcall('SREM', KEYS[2], ARGV[2])
if items == 0 then redis.pcall('DEL', KEYS[1])
elseif type(items) == 'number' then redis.pcall('LTRIM', KEYS[1], 0, items - 1) end
if failed(reply) then return reply end
return redis.error_reply('ERR in the script: ' .. tostring(reply))
"""
)
"""Keys: the key, the marker. Arguments: the marker's seconds, its scope, the key's seconds (0:
none), the command and what it takes. The marker is set first, and is taken back with what was
pushed when anything after it fails."""

TOGETHER = _STEPS + "return chunked(2) or expire(KEYS[1], ARGV[1]) or 1"
"""Keys: the key. Arguments: its seconds, the command and what it takes. The time to live is set
only where the command succeeded: else it would be set on what somebody else keeps under that
key."""


def scope_of(sink: str, op: str, key: bytes) -> str:
    """For what a marker stands; short however long the key is."""
    return f"{sink}/{op}/{sha256(key).hexdigest()[:32]}"


def check_count(arguments: int) -> None:
    """Raises ValueError for more arguments than a server takes without closing the connection;
    asked before they are encoded, which takes seconds."""
    if arguments > MAX_ARGUMENTS:
        raise ValueError(
            f"value: expected at most {MAX_ARGUMENTS} arguments of one command, "
            f"got {arguments}; give it as several payloads"
        )


def check_sizes(arguments: list[bytes | str | int]) -> None:
    """Raises ValueError for an argument that a server would close the connection over."""
    for argument in arguments:
        if isinstance(argument, (bytes, str)) and len(argument) > MAX_ARGUMENT_BYTES:
            raise ValueError(
                f"value: expected items of at most {MAX_ARGUMENT_BYTES} bytes, got {len(argument)}"
            )
