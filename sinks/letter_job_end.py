"""End of a job on letters: what it did itself, and who was faster with the rest.

A job that did nothing is not done. Its letters were open when it was asked for; by its turn another
job, a command or a person may have had them.
"""

from __future__ import annotations

from datetime import UTC
from typing import Any

from sinks.models import DeadLetter, LetterAction, LetterJob, LetterState, Replay
from sinks.replay import Selection, chosen_letters

DID = ("replayed", "letters", "resolved", "expired", "failed", "unconfirmed")
"""Counts of a result that say that the job did, or tried, something."""


def with_left_out(job: LetterJob, selection: Selection, result: dict[str, Any]) -> dict[str, Any]:
    """Return the result with ``taken``: letters of the job that others had before their turn.

    Counts what a former runner of the job did as the job's own.
    """
    if result.get("is_cut_short"):
        return result
    name = "resolved" if job.action == LetterAction.RESOLVE else "letters"
    result = result | {name: max(result[name], _own(job, selection))}
    ended = sum(result.get(each, 0) for each in (name, "expired", "failed", "unconfirmed"))
    return result | {"taken": max(0, job.letters_total - ended)}


def _own(job: LetterJob, selection: Selection) -> int:
    if job.action == LetterAction.RESOLVE:
        mine = {"resolved_by": job.actor, "resolution": job.reason}
        since = chosen_letters(selection).filter(resolved_at__gte=job.created_at)
        return since.filter(state=LetterState.RESOLVED, **mine).count()
    return Replay.objects.filter(job=job, error="").values("letter").distinct().count()


def did_nothing(job: LetterJob, selection: Selection, result: dict[str, Any]) -> str:
    """Why nothing at all was done, naming who had a letter first; empty where something was."""
    if any(result.get(name) for name in DID):
        return ""
    letters = chosen_letters(selection).exclude(state=LetterState.OPEN).order_by("-id")
    letter = letters.first()
    had = "it is gone" if letter is None else f"{letter} was {who_had(letter)}"
    what = "the edited message was not sent" if job.action == LetterAction.EDIT else "nothing done"
    return f"{what}: none of {job.letters_total} letters was open any more at its turn; {had}"


def who_had(letter: DeadLetter) -> str:
    """Return what became of a letter that is not open, by whom and when."""
    if letter.state == LetterState.RESOLVED:
        return f"resolved by {letter.resolved_by}: {letter.resolution}"
    replay = letter.replays.order_by("-asked_at", "-id").first()
    if letter.state != LetterState.REPLAYED or replay is None:
        return letter.state
    at = replay.asked_at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    by_job = f" in job {replay.job_id}" if replay.job_id else ""
    doubt = "" if replay.confirmed_at else ", not confirmed yet"
    return f"replayed by {replay.actor}{by_job} at {at}{doubt}"
