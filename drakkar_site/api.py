"""JSON API: one document of all routers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from django.http import Http404, HttpRequest, HttpResponse
from ninja import NinjaAPI
from ninja.errors import HttpError, ValidationError
from ninja.openapi.schema import OpenAPISchema
from ninja.parser import Parser
from ninja.renderers import JSONRenderer

from drakkar_site.api_page import ApiPage
from drakkar_site.documents import BadDocument, read_document, without_nan
from drakkar_site.problem_json import problem
from recorder.api import router as recorder_router
from recorder.events_api import router as events_router
from recorder.exports_api import router as exports_router
from sinks.api import router as letters_router
from workers.control_plane.control_api import router as control_router
from workers.control_plane.deployments_api import router as deployments_router
from workers.control_plane.failures_api import router as failures_router
from workers.control_plane.fleet_api import router as fleet_router
from workers.control_plane.letters_api import router as letter_jobs_router
from workers.control_plane.live.earlier import router as earlier_router
from workers.control_plane.reruns_api import router as reruns_router
from workers.control_plane.trends_api import router as trends_router

ERRORS = {
    "400": "The body cannot be read",
    "401": "No session and no valid token",
    "403": "The session or token lacks the right, or the request could be forged",
    "404": "There is no such thing",
    "422": "A parameter or field is not valid; the detail names it",
    "429": "Too many failed attempts from this address; Retry-After says how long to wait",
    "503": "The database does not answer; Retry-After says when to ask again",
}
PROBLEM = {
    "type": "object",
    "description": "RFC 9457",
    "required": ["type", "title", "status", "detail", "instance"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string"},
    },
}


class SoundText(Parser):
    """Reads documents that mean one thing and that Postgres can hold."""

    def parse_body(self, request: HttpRequest) -> Any:
        """Return the document. Raises BadDocument, which is answered by 400 with its text."""
        return read_document(request.body)


class StrictJson(JSONRenderer):
    """Writes what every reader of JSON understands: an unknown number in place of NaN."""

    json_dumps_params: Mapping[str, Any] = {"allow_nan": False}

    def render(self, request: HttpRequest, data: Any, *, response_status: int) -> Any:
        """Return the document."""
        try:
            return super().render(request, data, response_status=response_status)
        except ValueError:
            return super().render(request, without_nan(data), response_status=response_status)


class Api(NinjaAPI):
    """Names in its document what every route may answer besides its own."""

    def get_openapi_schema(self, **_: Any) -> OpenAPISchema:
        """Return the document; each error is a problem. The routes never change: it is made
        once."""
        return self._document

    @cached_property
    def _document(self) -> OpenAPISchema:
        document = super().get_openapi_schema()
        document["components"]["schemas"]["Problem"] = PROBLEM
        content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
        for routes in document["paths"].values():
            for operation in routes.values():
                for status, text in ERRORS.items():
                    operation["responses"][status] = {"description": text, "content": content}
        return document


api = Api(
    title="Drakkar",
    version="1",
    urls_namespace="api",
    parser=SoundText(),
    renderer=StrictJson(),
    docs=ApiPage(),
    docs_url="/docs",
    openapi_url="/openapi.json",
)
api.add_router("", fleet_router)
api.add_router("", deployments_router)
api.add_router("", control_router)
api.add_router("", recorder_router)
api.add_router("", events_router)
api.add_router("", earlier_router)
api.add_router("", exports_router)
api.add_router("", letters_router)
api.add_router("", letter_jobs_router)
api.add_router("", reruns_router)
api.add_router("", failures_router)
api.add_router("", trends_router)


@api.exception_handler(ValidationError)
def _invalid(request: HttpRequest, exc: ValidationError) -> HttpResponse:
    first = exc.errors[0]
    where = ".".join(str(part) for part in first.get("loc", ()))
    return problem(request, 422, f"{where}: {first.get('msg', 'not valid')}")


@api.exception_handler(HttpError)
def _refused(request: HttpRequest, exc: HttpError) -> HttpResponse:
    cause = exc.__cause__
    return problem(request, exc.status_code, str(cause if isinstance(cause, BadDocument) else exc))


@api.exception_handler(Http404)
def _missing(request: HttpRequest, exc: Http404) -> HttpResponse:
    return problem(request, 404, str(exc) or "There is no such thing")
