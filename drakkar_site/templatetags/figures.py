"""Figures as the pages show them: unknown is "unknown", never 0."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TypeGuard

from django import template
from django.templatetags.static import static
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from drakkar_site.visible import PICTURES

register = template.Library()
SECOND_MS = 1000.0
LARGEST = 1e24
"""Largest figure of ours; what is beyond it is none."""
MINUTE_MS = 60_000.0


def _is_known(value: Any) -> TypeGuard[float]:
    """Whether it is a figure: neither missing nor NaN nor Infinity."""
    return isinstance(value, int | float) and -LARGEST < value < LARGEST


@register.filter
def num(value: float | str | None) -> str:
    """A whole number with thousands separators. A missing key reaches a filter as empty text."""
    return f"{round(value):,}" if _is_known(value) else "unknown"


@register.filter
def rate(value: float) -> str:
    """Three significant digits, never with an exponent."""
    return f"{float(f'{value:.3g}'):,.12g}"


@register.filter
def dur(ms: float | str | None) -> str:
    """A duration in milliseconds, three significant digits."""
    if not _is_known(ms):
        return "unknown"
    if ms < SECOND_MS - 0.5:  # what would round to 1,000 ms is a second
        return f"{ms:.3g} ms"
    if ms < MINUTE_MS - 50:
        return f"{ms / SECOND_MS:.3g} s"
    minutes, seconds = divmod(round(ms / SECOND_MS), 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


@register.filter
def secs(seconds: float | str | None) -> str:
    """A duration in seconds, as ``dur``."""
    return dur(seconds * SECOND_MS if _is_known(seconds) else None)


@register.filter
def mib(size: int | str | None) -> str:
    """Bytes in the unit that fits, three significant digits and no exponent."""
    if not _is_known(size):
        return "unknown"
    if size < 1024:
        return f"{size:,} bytes"
    amount, unit = size / 1024, "KiB"
    for larger in ("MiB", "GiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:.3g} {unit}" if amount < 999.5 else f"{amount:,.0f} {unit}"


@register.filter
def percent(share: float | str | None) -> str:
    """A share of 1 in whole percent, never 100 % before all is done."""
    return f"{int(share * 100)} %" if _is_known(share) else "unknown"


@register.filter
def share(part: float | str | None) -> str:
    """A share of 1 in percent, with what is rare told apart from what never happens."""
    if not _is_known(part):
        return "unknown"
    return "< 0.1 %" if 0 < part < 0.001 else f"{part * 100:.3g} %"


@register.filter
def visible(text: str) -> str:
    """Control characters as their pictures: HTML leaves some of them out."""
    return text.translate(PICTURES)


@register.simple_tag
@lru_cache(256)
def icon(name: str) -> SafeString:
    """A glyph of the icon sheet; decoration only."""
    sheet = static("drakkar/icons.svg")
    return format_html('<svg class="i" aria-hidden="true"><use href="{}#{}"/></svg>', sheet, name)


@register.simple_tag
def moment(at: datetime) -> SafeString:
    """A time that the page turns into local time on demand; exact UTC on hover."""
    utc = at.astimezone(UTC)
    time = utc.strftime("%H:%M:%S.") + f"{utc.microsecond // 1000:03}"
    exact = utc.strftime("%Y-%m-%d ") + time + " UTC"
    said = f"{_date(utc, timezone.now())}{time}"
    # digits and signs of a clock only: there is nothing to escape
    return SafeString(f'<time datetime="{utc.isoformat()}" title="{exact}">{said}</time>')


def _date(utc: datetime, now: datetime) -> str:
    """Return what goes before the time of day: nothing today, the year only where it is another."""
    today = now.astimezone(UTC).date()
    if utc.date() == today:
        return ""
    return utc.strftime("%m-%d " if utc.year == today.year else "%Y-%m-%d ")


@register.simple_tag(takes_context=True)
def changed(context: dict[str, Any], **changes: Any) -> str:
    """Return the page's query with some values changed; None takes a value out."""
    query = context["request"].GET.copy()
    for name, value in changes.items():
        query.pop(name, None)
        if value is not None:
            query[name] = str(value)
    return f"?{query.urlencode()}"
