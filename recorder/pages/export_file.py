"""File of an export as a download: in blocks, in part, and not again where the reader has it.

Ranges, conditions and their answers are those of RFC 9110, sections 13 and 14.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.handlers.asgi import ASGIRequest
from django.http import (
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    StreamingHttpResponse,
)
from django.utils.cache import get_conditional_response
from django.utils.http import content_disposition_header, http_date

from recorder.export_jobs import file_name_of, path_of
from recorder.models import ExportJob, ExportState

BLOCK_BYTES = 256 * 1024
_RANGE = re.compile(r"bytes=\s*(\d{0,19})-(\d{0,19})\s*", re.ASCII)


def export_folder() -> Path:
    """Return the folder that exports are written to."""
    return Path(settings.DRAKKAR_STATE.site.export_dir)


def file_answer(request: HttpRequest, job: ExportJob) -> HttpResponseBase:
    """Answer ``GET`` and ``HEAD`` of a finished job's file. Raises Http404 with the reason.

    One range is served; of several, which no downloader sends, the whole file, as is allowed. Where
    a proxy sends the file (``site.export_accel``), ranges and conditions are the proxy's.
    """
    path = path_of(job, export_folder())
    if job.state != ExportState.DONE:
        raise Http404(f"The export is {job.state}")
    disposition = content_disposition_header(True, file_name_of(job)) or ""
    if by_proxy := settings.DRAKKAR_STATE.site.export_accel:
        answer = HttpResponse(content_type="application/octet-stream")
        answer["X-Accel-Redirect"] = f"{by_proxy}{path.name}"
        answer["Content-Disposition"] = disposition
        return answer
    try:
        file = path.open("rb")
    except OSError as exc:
        raise Http404("The file is not on this host: see site.export_dir") from exc
    found = _found(request, job, file)
    found["Content-Disposition"] = disposition
    found["Accept-Ranges"] = "bytes"
    return found


def _found(request: HttpRequest, job: ExportJob, file: IO[bytes]) -> HttpResponseBase:
    state = os.fstat(file.fileno())
    etag = f'"{job.id.hex}-{state.st_size:x}-{state.st_mtime_ns:x}"'
    modified = int(state.st_mtime)
    known = get_conditional_response(request, etag=etag, last_modified=modified)
    part = _part(request, state.st_size, etag, datetime.fromtimestamp(modified, UTC))
    if known is not None or part is None or request.method == "HEAD":
        file.close()
    if known is not None:
        return known
    if part is None:
        answer: HttpResponseBase = HttpResponse(status=416)
        answer["Content-Range"] = f"bytes */{state.st_size}"
        return answer
    first, end = part
    answer = HttpResponse() if request.method == "HEAD" else _streamed(request, file, first, end)
    answer["Content-Type"] = "application/octet-stream"
    answer["Content-Length"] = str(end - first)
    answer["ETag"], answer["Last-Modified"] = etag, http_date(modified)
    if (first, end) != (0, state.st_size):
        answer.status_code = 206
        answer["Content-Range"] = f"bytes {first}-{end - 1}/{state.st_size}"
    return answer


def _part(
    request: HttpRequest, size_bytes: int, etag: str, modified: datetime
) -> tuple[int, int] | None:
    """Return the first byte and the end of what is asked for; None: there are no such bytes."""
    asked = _RANGE.fullmatch(request.headers.get("Range", ""))
    condition = request.headers.get("If-Range")
    is_stale = condition is not None and condition not in (etag, http_date(modified.timestamp()))
    if asked is None or asked[0].strip() == "bytes=-" or is_stale or request.method == "HEAD":
        return 0, size_bytes
    if not asked[1]:
        first, end = max(0, size_bytes - int(asked[2])), size_bytes
    else:
        first, end = int(asked[1]), min(size_bytes, int(asked[2] or size_bytes) + 1)
        if asked[2] and int(asked[2]) < first:
            return 0, size_bytes  # no range at all
    return (first, end) if first < end else None


def _streamed(request: HttpRequest, file: IO[bytes], first: int, end: int) -> StreamingHttpResponse:
    file.seek(first)
    # Under ASGI a synchronous iterator would be read into memory as a whole.
    is_async = isinstance(request, ASGIRequest)
    blocks = _async_blocks(file, end - first) if is_async else _blocks(file, end - first)
    return StreamingHttpResponse(blocks)


def _blocks(file: IO[bytes], left: int) -> Iterator[bytes]:
    with file:
        while left > 0 and (block := file.read(min(left, BLOCK_BYTES))):
            left -= len(block)
            yield block


async def _async_blocks(file: IO[bytes], left: int) -> AsyncIterator[bytes]:
    read = sync_to_async(file.read, thread_sensitive=False)
    try:
        while left > 0 and (block := await read(min(left, BLOCK_BYTES))):
            left -= len(block)
            yield block
    finally:
        file.close()
