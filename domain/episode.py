"""Episode of a finding: from when it is first seen until it has ended, and when to tell of it.

=========  =====================================================  ==================
phase      leaves it when                                         is told then
=========  =====================================================  ==================
settling   it is gone: the episode is forgotten                   nothing
settling   it has stood for ``settle_seconds`` without a silence  started
told       its severity rises, or its magnitude grew tenfold      grew
told       it is gone for ``gone_seconds``                        ended
=========  =====================================================  ==================

A told finding that is gone and comes back before ``gone_seconds`` is in the same episode, so that
one that flaps is told once. While it is silenced nothing is told of it; what stands longer than
its silence is told after it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from domain.finding import Severity

GROWN = 10.0
"""Factor by which a magnitude grows until it is told again."""


class Change(StrEnum):
    """Turn of an episode that is told."""

    STARTED = "started"
    GREW = "grew"
    ENDED = "ended"


class Quiet(StrEnum):
    """How much of a finding somebody asked not to be told."""

    NOTHING = ""
    GROWTH = "growth"
    """Somebody has taken it on: its growth is not told, its end is."""
    ALL = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeRules:
    """Seconds a finding stands before it is told, and is gone before its end is."""

    settle_seconds: float
    gone_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """Finding as it is seen at one time; ``magnitude`` in its own unit, None: unknown or none."""

    severity: Severity
    magnitude: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """Times in seconds of one clock. ``told`` is the worst that was told; None: nothing was.
    ``gone_at`` is when it was first missed; None: it is there."""

    began_at: float
    told: Sight | None = None
    gone_at: float | None = None


def step(
    episode: Episode | None, sight: Sight | None, now: float, rules: EpisodeRules, quiet: Quiet
) -> tuple[Episode | None, Change | None]:
    """Return the episode after a look at its finding, and what is to be told; None as ``sight``:
    the finding is not there, None as an episode: there is none."""
    if sight is None:
        return _missed(episode, now, rules, quiet) if episode is not None else (None, None)
    if episode is None:
        episode = Episode(began_at=now)
    episode = replace(episode, gone_at=None)
    if episode.told is None:
        if quiet is not Quiet.NOTHING or now - episode.began_at < rules.settle_seconds:
            return episode, None
        return replace(episode, told=sight), Change.STARTED
    if quiet is Quiet.NOTHING and _has_grown(episode.told, sight):
        return replace(episode, told=_worse(episode.told, sight)), Change.GREW
    return episode, None


def _missed(
    episode: Episode, now: float, rules: EpisodeRules, quiet: Quiet
) -> tuple[Episode | None, Change | None]:
    if episode.told is None:
        return None, None
    gone_at = now if episode.gone_at is None else episode.gone_at
    if now - gone_at < rules.gone_seconds:
        return replace(episode, gone_at=gone_at), None
    return None, None if quiet is Quiet.ALL else Change.ENDED


def _has_grown(told: Sight, sight: Sight) -> bool:
    if sight.severity.rank > told.severity.rank:
        return True
    if told.magnitude is None or sight.magnitude is None:
        return False
    return sight.magnitude >= GROWN * max(told.magnitude, 1.0)


def _worse(told: Sight, sight: Sight) -> Sight:
    """Return the worst of both, each figure by itself."""
    known = [each for each in (told.magnitude, sight.magnitude) if each is not None]
    return Sight(
        severity=max(told.severity, sight.severity, key=lambda each: each.rank),
        magnitude=max(known, default=None),
    )
