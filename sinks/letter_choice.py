"""Choice of the letters of a job: chosen ones, or all that match; of one cluster in either case."""

from __future__ import annotations

from collections.abc import Sequence

from domain.failure import Stage
from sinks.letter_jobs import BadJob
from sinks.models import DeadLetter, LetterAction
from sinks.replay import Selection

MAX_CHOSEN = 1000


def chosen(ids: Sequence[int], action: LetterAction, up_to_id: int) -> Selection:
    """These letters. Raises BadJob when they are none, too many, or of several clusters."""
    if not 1 <= len(ids) <= MAX_CHOSEN:
        raise BadJob(f"letter: expected 1 to {MAX_CHOSEN} chosen letters, got {len(ids) or 'none'}")
    found = DeadLetter.objects.filter(pk__in=ids).values_list("cluster", flat=True)
    clusters = sorted(set(found))
    if len(clusters) != 1:
        told = ", ".join(clusters) or "none"
        raise BadJob(f"letter: expected letters of one cluster, got those of {told}")
    return Selection(cluster=clusters[0], ids=ids, stage=_only(action), up_to_id=up_to_id)


def matching(
    cluster: str, worker: str, stage: str, action: LetterAction, up_to_id: int
) -> Selection:
    """All letters of a cluster, and of a worker and stage unless empty. Raises BadJob."""
    if not cluster:
        raise BadJob("cluster: expected one, because a replay needs its source; got none")
    only = _only(action)
    if only and stage not in ("", only):
        raise BadJob(f"stage: expected {only}, because others hold no payload; got {stage}")
    return Selection(cluster=cluster, worker=worker, stage=only or stage, up_to_id=up_to_id)


def _only(action: LetterAction) -> str:
    return Stage.DELIVER.value if action is LetterAction.SINK else ""
