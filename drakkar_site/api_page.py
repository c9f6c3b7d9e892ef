"""``/api/v1/docs``: every route of the API in the site's own frame, made of its document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from ninja import NinjaAPI
from ninja.openapi.docs import DocsBase

Schema = Mapping[str, Any]


class ApiPage(DocsBase):
    """Page of the routes by their tags, with parameters, bodies, answers and an example each."""

    def render_page(self, request: HttpRequest, api: NinjaAPI, **kwargs: Any) -> HttpResponse:
        """Return the page."""
        document = api.get_openapi_schema()
        routes = list(_routes(document, request.build_absolute_uri("/").rstrip("/")))
        tags = dict.fromkeys(route["tag"] for route in routes)
        context = {
            "document_url": self.get_openapi_url(api, kwargs),
            "version": document["info"]["version"],
            "count": len(routes),
            "groups": [(tag, [each for each in routes if each["tag"] == tag]) for tag in tags],
            "schemas": [
                {"name": name, "text": each.get("description", ""), "fields": _fields(each)}
                for name, each in sorted(document["components"]["schemas"].items())
            ],
        }
        return render(request, "api_docs.html", context)


def _routes(document: Schema, site: str) -> Iterator[dict[str, Any]]:
    for path, operations in document["paths"].items():
        for method, each in operations.items():
            body = _content(each.get("requestBody", {}))
            yield {
                "tag": next(iter(each.get("tags", ())), "other"),
                "method": method.upper(),
                "path": path,
                "anchor": each["operationId"],
                "summary": each.get("summary", ""),
                "text": each.get("description", ""),
                "parameters": [_parameter(one) for one in each.get("parameters", ())],
                "body": type_of(body) if body else "",
                "answers": [_answer(*one) for one in each["responses"].items()],
                "example": _example(method.upper(), f"{site}{path}", has_body=bool(body)),
            }


def _example(method: str, url: str, *, has_body: bool) -> str:
    parts = ['curl -H "Authorization: Bearer $TOKEN"']
    if method != "GET":
        parts.append(f"-X {method}")
    if has_body:
        parts.append("-H 'Content-Type: application/json' -d @body.json")
    return " ".join([*parts, f"'{url}'"])


def _parameter(each: Schema) -> dict[str, Any]:
    schema = each.get("schema", {})
    return {
        "name": each["name"],
        "place": each["in"],
        "type": type_of(schema),
        "is_required": each.get("required", False),
        "default": schema.get("default"),
        "text": each.get("description") or schema.get("description", ""),
    }


def _answer(status: int | str, answer: Schema) -> dict[str, Any]:
    content = _content(answer)
    return {
        "status": str(status),
        "text": answer.get("description", ""),
        "type": type_of(content) if content else "",
        "is_error": str(status)[0] in "45",
    }


def _content(holder: Schema) -> Schema | None:
    """Return the schema of a body; None where it has none."""
    kinds = holder.get("content", {}).values()
    return next((each["schema"] for each in kinds if "schema" in each), None)


def _fields(schema: Schema) -> list[dict[str, Any]]:
    needed = schema.get("required", ())
    return [
        {
            "name": name,
            "type": type_of(each),
            "is_required": name in needed,
            "default": each.get("default"),
            "text": each.get("description", ""),
        }
        for name, each in schema.get("properties", {}).items()
    ]


def type_of(schema: Schema) -> str:
    """Return a type in words: that of a part by its name, with its bounds."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(map(type_of, choices)))
    if "allOf" in schema:
        return " and ".join(map(type_of, schema["allOf"]))
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    kind = schema.get("type", "anything")
    if kind == "array":
        return f"list of {type_of(schema.get('items', {}))}"
    more = schema.get("additionalProperties")
    if kind == "object" and isinstance(more, Mapping) and more:
        return f"object of {type_of(more)}"
    return " ".join([schema.get("format", kind), *_bounds(schema)])


def _bounds(schema: Schema) -> Iterator[str]:
    """Return the bounds of a number or text."""
    least = schema.get("minimum", schema.get("minLength"))
    most = schema.get("maximum", schema.get("maxLength"))
    if least is not None:
        yield f"from {least}"
    if most is not None:
        yield f"to {most}"
    if (above := schema.get("exclusiveMaximum")) is not None:
        yield f"below {above}"
