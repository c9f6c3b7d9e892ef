"""The ASGI application that daphne serves."""

from __future__ import annotations

import gc
import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "drakkar_site.settings")

from drakkar_site.config.report import stop
from drakkar_site.settings import DRAKKAR_PROBLEMS
from workers.executor.isolation import hide_from_tasks

hide_from_tasks()
if DRAKKAR_PROBLEMS:  # a page server with a broken configuration must not look alive
    stop(DRAKKAR_PROBLEMS)
_pages = get_asgi_application()

from channels.routing import ProtocolTypeRouter  # type: ignore[import-untyped]  # noqa: E402

from drakkar_site import urls  # noqa: E402, F401 - all pages, before the freeze
from drakkar_site.accounts.masking import mask_access_log  # noqa: E402
from drakkar_site.bodies import bound_bodies  # noqa: E402
from drakkar_site.root_path import at_root  # noqa: E402
from drakkar_site.sockets import websockets  # noqa: E402

mask_access_log()
bound_bodies()
application = at_root(ProtocolTypeRouter({"http": _pages, "websocket": websockets()}))
gc.collect()
gc.freeze()  # a full collection of all this takes 150 ms, in which no page and no socket is served
