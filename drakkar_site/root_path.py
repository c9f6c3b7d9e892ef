"""Root path of the site: always the root of its host, whatever a request says."""

from __future__ import annotations

from typing import Any


def at_root(application: Any) -> Any:
    """Return the application without a root path: daphne takes one from a header of any client."""

    async def answer(scope: dict[str, Any], receive: Any, send: Any) -> Any:
        return await application({**scope, "root_path": ""}, receive, send)

    return answer
