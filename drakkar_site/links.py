"""Links to other tools: the site's, each of which a cluster may override."""

from __future__ import annotations

from urllib.parse import quote, urlencode

from django.conf import settings

from workers.config import LinksConfig

NAMES = {
    "kafka_ui": "Kafka UI",
    "mongo_ui": "MongoDB",
    "redis_ui": "Redis",
    "prometheus": "Prometheus",
}
METRICS = {
    "consumed": "sum(rate(drakkar_messages_consumed_total{scope}[5m]))",
    "tasks_completed": 'sum(rate(drakkar_executor_tasks_total{scope,outcome="completed"}[5m]))',
    "tasks_failed": 'sum(rate(drakkar_executor_tasks_total{scope,outcome="failed"}[5m]))',
    "tasks_retried": "sum(rate(drakkar_task_retries_total{scope}[5m]))",
    "dead_letters": "sum(rate(drakkar_dead_letters_total{scope}[5m]))",
    "lag": "sum(drakkar_consumer_lag{scope})",
    "latency": "histogram_quantile(0.95, sum by (le)"
    " (rate(drakkar_message_latency_seconds_bucket{scope}[5m])))",
}


def tool_links(cluster: str, worker: str) -> list[tuple[str, str]]:
    """Name and address of each link. One that asks for a choice nobody made is left out."""
    links = [(NAMES[key], _chosen(key, cluster)) for key in NAMES]
    site, own = settings.DRAKKAR_STATE.site.links, _own(cluster)
    custom = own.custom if own is not None and own.custom else site.custom
    links += [(each.name, each.url) for each in custom]
    choice = {"{cluster}": cluster, "{worker}": worker}
    return [
        (name, _filled(url, choice))
        for name, url in links
        if url and all(value or mark not in url for mark, value in choice.items())
    ]


def metric_links(cluster: str, worker: str) -> dict[str, str]:
    """Return the Prometheus graph of each figure of the dashboard; empty without a Prometheus."""
    base = _chosen("prometheus", cluster)
    if not base:
        return {}
    base = _filled(base, {"{cluster}": cluster, "{worker}": worker}).rstrip("/")
    chosen = (("cluster", cluster), ("worker", worker))
    scope = ",".join(f'{name}="{_quoted(value)}"' for name, value in chosen if value)
    return {
        key: f"{base}/graph?{urlencode({'g0.expr': _scoped(text, scope), 'g0.tab': 0})}"
        for key, text in METRICS.items()
    }


def _own(cluster: str) -> LinksConfig | None:
    config = settings.DRAKKAR
    known = config.clusters.get(cluster) if config is not None else None
    return known.links if known is not None else None


def _chosen(key: str, cluster: str) -> str:
    own = getattr(_own(cluster), key, None)
    return own or getattr(settings.DRAKKAR_STATE.site.links, key) or ""


def _filled(url: str, choice: dict[str, str]) -> str:
    for mark, value in choice.items():
        url = url.replace(mark, quote(value, safe=""))
    return url


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')


def _scoped(expression: str, scope: str) -> str:
    inside = f"{{{scope}"
    with_comma = f"{inside}," if scope else inside
    return expression.replace("{scope,", with_comma).replace("{scope}", f"{inside}}}")
