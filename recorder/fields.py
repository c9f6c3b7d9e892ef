"""Model fields that hold records of a heartbeat (``domain.beat``) as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from django.db import models
from django.db.models.fields.json import KeyTransform

from domain.beat import Record, from_json, rows_from_json, to_json

R = TypeVar("R", bound=Record)


def record_field(cls: type[R]) -> models.JSONField[Any, R]:
    """Return a field of one record, whose figures all may be unknown."""
    return RecordField(lambda document: from_json(cls, document))


def records_field(cls: type[R]) -> models.JSONField[Any, tuple[R, ...]]:
    """Return a field of a tuple of records."""
    return RecordField(partial(rows_from_json, cls))


class RecordEncoder(json.JSONEncoder):
    """Writes records as JSON objects."""

    def default(self, o: Any) -> Any:
        """Return the plain JSON of a record. Raises TypeError for anything else."""
        return to_json(o) if isinstance(o, Record) else super().default(o)


class RecordField(models.JSONField):
    """Takes records or their plain JSON, and gives records: what ``read`` makes of the document;
    of None the default. To migrations a plain JSONField."""

    def __init__(self, read: Callable[[Any], Any]) -> None:
        self.read = read
        super().__init__(encoder=RecordEncoder, default=lambda: read({}))

    def clone(self) -> RecordField:
        """Return another field of the same records."""
        return RecordField(self.read)

    def deconstruct(self) -> Any:
        """Describe the column, which is what it was before it had a type."""
        name, _, args, _ = super().deconstruct()
        plain = list if isinstance(self.read({}), tuple) else dict
        return name, "django.db.models.JSONField", args, {"default": plain}

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> Any:
        """Return the records of a column; of a key in it, plain JSON."""
        found = super().from_db_value(value, expression, connection)
        return found if isinstance(expression, KeyTransform) else self.read(found)

    def value_to_string(self, obj: models.Model) -> Any:
        """Return the plain JSON of the records, as ``dumpdata`` writes it."""
        return to_json(self.value_from_object(obj))
