"""``/live``: an empty frame; everything in it comes over the live socket."""

from __future__ import annotations

from dataclasses import asdict

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from domain.events import KINDS


def live(request: HttpRequest) -> HttpResponse:
    """Return the live page of the chosen cluster and worker."""
    marks = {name: asdict(kind.mark) for name, kind in KINDS.items() if kind.mark is not None}
    return render(request, "live.html", {"marks": marks})
