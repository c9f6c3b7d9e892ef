"""Django's settings, composed from Drakkar's own configuration."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from drakkar_site.config.sources import environment, load

BASE_DIR = Path(__file__).resolve().parent.parent
DRAKKAR_STATE = load()
DRAKKAR = DRAKKAR_STATE.config
DRAKKAR_PROBLEMS = DRAKKAR_STATE.problems
DRAKKAR_ENVIRONMENT = environment()
_site = DRAKKAR_STATE.site
_db = urlsplit(_site.database_url)

SECRET_KEY = _site.secret_key
DEBUG = _site.debug
ALLOWED_HOSTS = [*_site.allowed_hosts, "localhost", "127.0.0.1", "[::1]"]
CSRF_TRUSTED_ORIGINS = list(_site.csrf_trusted_origins)
INSTALLED_APPS = [
    "drakkar_site",
    "workers",  # before channels, which has a runworker command of its own
    "sinks",
    "recorder",
    "daphne",
    "channels",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "drakkar_site.urls"
ASGI_APPLICATION = "drakkar_site.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": _db.path.lstrip("/"),
        "USER": unquote(_db.username or ""),
        "PASSWORD": unquote(_db.password or ""),
        "HOST": _db.hostname or "127.0.0.1",
        "PORT": str(_db.port or 5432),
        "OPTIONS": {"connect_timeout": 5},
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TIME_ZONE = "UTC"
STATIC_URL = "static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
