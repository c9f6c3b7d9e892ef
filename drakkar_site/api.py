"""The JSON API: one document of all routers."""

from __future__ import annotations

from django.http import Http404, HttpRequest, HttpResponse
from ninja import NinjaAPI
from ninja.errors import HttpError, ValidationError

from drakkar_site.problem_json import problem
from recorder.api import router as recorder_router
from recorder.exports_api import router as exports_router
from sinks.api import router as letters_router
from workers.api import router as workers_router
from workers.control_api import router as control_router

api = NinjaAPI(
    title="Drakkar",
    version="1",
    urls_namespace="api",
    docs_url="/docs",
    openapi_url="/openapi.json",
)
api.add_router("", workers_router)
api.add_router("", control_router)
api.add_router("", recorder_router)
api.add_router("", exports_router)
api.add_router("", letters_router)


@api.exception_handler(ValidationError)
def _invalid(request: HttpRequest, exc: ValidationError) -> HttpResponse:
    first = exc.errors[0]
    where = ".".join(str(part) for part in first.get("loc", ()))
    return problem(request, 422, f"{where}: {first.get('msg', 'not valid')}")


@api.exception_handler(HttpError)
def _refused(request: HttpRequest, exc: HttpError) -> HttpResponse:
    return problem(request, exc.status_code, str(exc))


@api.exception_handler(Http404)
def _missing(request: HttpRequest, exc: Http404) -> HttpResponse:
    return problem(request, 404, str(exc) or "There is no such thing")
