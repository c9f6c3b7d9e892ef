"""Settings of ``runworker``: those of the site, without the apps that only serve its pages.

They cost a worker 28 MiB and a fifth of a second. Users are there for whom a request is from.
"""

from __future__ import annotations

from drakkar_site.settings import *  # noqa: F403

INSTALLED_APPS = [
    "drakkar_site",
    "workers",
    "sinks",
    "recorder",
    "django.contrib.auth",
    "django.contrib.contenttypes",
]
