"""The public face for the author of a sink kind (docs/sink-plugins.md)."""

from sinks.base import (
    ConfigError,
    Delivery,
    PermanentError,
    Sink,
    SinkError,
    TransientError,
    UnknownError,
    repetition_id,
)
from sinks.config import SinkConfig
from sinks.json_form import NotJson, encode_json
from sinks.registry import SinkContext, SinkKind

__all__ = [
    "ConfigError",
    "Delivery",
    "NotJson",
    "PermanentError",
    "Sink",
    "SinkConfig",
    "SinkContext",
    "SinkError",
    "SinkKind",
    "TransientError",
    "UnknownError",
    "encode_json",
    "repetition_id",
]
