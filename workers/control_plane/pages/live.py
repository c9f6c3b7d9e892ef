"""``/live``: an empty frame; everything in it comes over the live socket."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render


def live(request: HttpRequest) -> HttpResponse:
    """The live page of the chosen cluster and worker."""
    return render(request, "live.html")
