"""Django's settings, composed from Drakkar's own configuration."""

from __future__ import annotations

from pathlib import Path

from drakkar_site.config.sources import environment, load
from drakkar_site.database import database

BASE_DIR = Path(__file__).resolve().parent.parent
DRAKKAR_STATE = load()
DRAKKAR = DRAKKAR_STATE.config
DRAKKAR_PROBLEMS = DRAKKAR_STATE.problems
DRAKKAR_ENVIRONMENT = environment()
_site = DRAKKAR_STATE.site

SECRET_KEY = _site.secret_key
DEBUG = _site.debug
ALLOWED_HOSTS = [*_site.allowed_hosts, "localhost", "127.0.0.1", "[::1]"]
CSRF_TRUSTED_ORIGINS = [*_site.csrf_trusted_origins, *_site.own_origins]
INSTALLED_APPS = [
    "drakkar_site",
    "workers",  # before channels, which has a runworker command of its own
    "sinks",
    "recorder",
    "drakkar_site.accounts",
    "daphne",
    "channels",
    "drakkar_site.accounts.admin_app.RoleAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_prometheus",
    "csp",
]
MIDDLEWARE = [
    "drakkar_site.database.ReturnConnection",
    "drakkar_site.accounts.addresses.TrustProxies",
    "django_prometheus.middleware.PrometheusBeforeMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "csp.middleware.CSPMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "drakkar_site.accounts.audit.Audit",
    "drakkar_site.accounts.middleware.Gate",  # before CSRF, from which a bearer token is free
    "drakkar_site.scope.KeepChoice",
    "drakkar_site.visible.VisibleControls",
    "drakkar_site.accounts.csrf.CheckCsrf",
    "django.middleware.csrf.CsrfViewMiddleware",  # finds all done; `check` looks for its name
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_prometheus.middleware.PrometheusAfterMiddleware",
]
AUTHENTICATION_BACKENDS = [
    "django.contrib.auth.backends.ModelBackend",
    "drakkar_site.accounts.roles.RolePermissions",
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
                "drakkar_site.context_processors.frame",
            ]
        },
    }
]
DATABASES = {"default": database(_site.database_url)}
if _site.history_url:
    DATABASES["history"] = database(_site.history_url)
DATABASE_ROUTERS = ["recorder.databases.Router"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TIME_ZONE = "UTC"
FORMAT_MODULE_PATH = ["drakkar_site.formats"]
STATIC_URL = "/static/"
WHITENOISE_USE_FINDERS = True  # no collectstatic: files are served from where they are installed
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = "login"
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
CSRF_FAILURE_VIEW = "drakkar_site.errors.forged"
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = _is_tls = _site.url.startswith("https://")
SECURE_HSTS_SECONDS = _site.hsts_seconds if _is_tls else 0
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if _is_tls else None
# The proxy redirects to TLS; subdomains and preload lists are the domain's owner's to promise.
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W008", "security.W021"]
PROMETHEUS_EXPORT_MIGRATIONS = False
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'none'"],
        "script-src": ["'self'"],
        "style-src": ["'self'"],
        "img-src": ["'self'", "data:"],
        "font-src": ["'self'"],
        "connect-src": ["'self'"],
        "base-uri": ["'none'"],
        "form-action": ["'self'"],
        "frame-ancestors": ["'none'"],
    }
}
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"tokens": {"()": "drakkar_site.accounts.masking.MaskTokens"}},
    "formatters": {"line": {"format": "{asctime} {levelname} {name} {message}", "style": "{"}},
    "handlers": {
        "console": {
            "class": "logging.StreamHandler",
            "filters": ["tokens"],
            "formatter": "line",
        }
    },
    "loggers": {
        "django": {"handlers": ["console"], "level": "INFO", "propagate": False},
        "drakkar": {"handlers": ["console"], "level": "INFO", "propagate": False},
        # Each failed attempt to connect; the request that wanted it is told by django.request.
        "psycopg.pool": {"handlers": ["console"], "level": "ERROR", "propagate": False},
        "daphne": {"handlers": ["console"], "level": "INFO", "propagate": False},
    },
}
