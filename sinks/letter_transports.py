"""Whether a letter can go back to its source topic, as far as this process knows."""

from __future__ import annotations

from django.conf import settings


def no_road(cluster: str) -> str:
    """Why letters of a cluster cannot be replayed to their source topic; empty where they can.

    The controller, which does it, has the same configuration.
    """
    known = () if settings.DRAKKAR is None else tuple(settings.DRAKKAR.clusters)
    if cluster in known:
        return ""
    names = ", ".join(known) or "none"
    return (
        f"cluster: expected one that this site's configuration knows ({names}), because a replay "
        f"needs its source topic; got {cluster}"
    )
