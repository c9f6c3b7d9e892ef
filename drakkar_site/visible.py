"""No character that steers a terminal or a page's layout reaches a page.

Labels, output, errors, keys and headers are what topics and programs put there; HTML escapes
markup, not control characters. So the finished page is looked at, once, whatever made it.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

PICTURES = {n: 0x2400 + n for n in range(32) if chr(n) not in "\t\n\r"} | {127: 0x2421}
"""Control characters by their pictures."""
_STEERING = re.compile(
    rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"  # ASCII, but for tab and line ends
    rb"|\xc2[\x80-\x9f]"  # the second set of controls
    rb"|\xe2\x80[\xaa-\xae]|\xe2\x81[\xa6-\xa9]"  # text turned round: U+202A to E, U+2066 to 9
)


def _picture(found: re.Match[bytes]) -> bytes:
    first = found[0][0]
    return chr(PICTURES.get(first, 0xFFFD)).encode()


class VisibleControls:
    """Middleware: pages show control characters as pictures, and turned text as a mark."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Look at pages only: documents and files are for programs."""
        response = self._get_response(request)
        is_page = response.headers.get("Content-Type", "").startswith("text/html")
        if is_page and not response.streaming and _STEERING.search(response.content):
            response.content = _STEERING.sub(_picture, response.content)
        return response
