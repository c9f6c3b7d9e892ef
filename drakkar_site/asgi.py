"""The ASGI application that daphne serves."""

from __future__ import annotations

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "drakkar_site.settings")
application = get_asgi_application()
