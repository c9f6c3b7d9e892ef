"""ASGI application that daphne serves."""

from __future__ import annotations

import gc
import os
from typing import Any

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "drakkar_site.settings")

from drakkar_site import settings
from drakkar_site.config.exposure import exposed_key
from drakkar_site.config.report import stop
from drakkar_site.database import pooled
from workers.executor.isolation import hide_from_tasks

hide_from_tasks()
_site = settings.DRAKKAR_STATE.site
_problems = [*settings.DRAKKAR_PROBLEMS, *filter(None, [exposed_key(_site)])]
if _problems:  # a page server with a broken configuration must not look alive
    stop(_problems)
_web = _site.web
OTHER_CONNECTIONS = 8
"""Of those who have no place by admission: sockets, and exports that are being read."""
settings.DATABASES = {
    name: pooled(
        plain,
        connections=_web.max_requests + OTHER_CONNECTIONS,
        statement_seconds=_web.statement_timeout_seconds,
        lock_seconds=_web.lock_timeout_seconds,
    )
    for name, plain in settings.DATABASES.items()
}
_pages = get_asgi_application()

from channels.routing import ProtocolTypeRouter  # type: ignore[import-untyped]  # noqa: E402

from drakkar_site import urls  # noqa: E402, F401 - all pages, before the freeze
from drakkar_site.accounts.masking import mask_access_log  # noqa: E402
from drakkar_site.admission import Admission  # noqa: E402
from drakkar_site.bodies import bound_bodies  # noqa: E402
from drakkar_site.sockets import websockets  # noqa: E402


def at_root(application: Any) -> Any:
    """Return the application without a root path: daphne takes one from a header of any client."""

    async def answer(scope: dict[str, Any], receive: Any, send: Any) -> Any:
        return await application({**scope, "root_path": ""}, receive, send)

    return answer


mask_access_log()
bound_bodies()
_all = ProtocolTypeRouter({"http": _pages, "websocket": websockets(_web.max_sockets)})
application = at_root(Admission(_all, _web))
gc.collect()
gc.freeze()  # a full collection of all this takes 150 ms, in which no page and no socket is served
