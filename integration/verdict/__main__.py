"""Judges a run of the demo from the outside: what went in, what came out, and where it stands."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from integration.demo.clusters import CLUSTERS
from integration.verdict.facts import FactsMissing, gather
from integration.verdict.rules import Counts, Rule, counts, judge
from integration.verdict.stores import Stores

BAD_USE = 2


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m integration.verdict", description=__doc__)
    parser.add_argument("--brokers", required=True)
    parser.add_argument("--database-url", required=True)
    parser.add_argument("--redis-url", required=True)
    parser.add_argument("--mongo-uri", required=True)
    parser.add_argument("--run", type=Path, default=Path(".run"), help="the demo's folder")
    parser.add_argument("--report", type=Path)
    return parser.parse_args(argv)


def report(figures: Mapping[str, Counts], rules: Sequence[Rule]) -> dict[str, object]:
    """The report file's content; ``figures`` by cluster."""
    return {
        "ok": all(rule.ok for rule in rules),
        "clusters": {cluster: asdict(counted) for cluster, counted in figures.items()},
        "rules": [asdict(rule) for rule in rules],
    }


def show(cluster: str, figures: Counts, rules: Sequence[Rule]) -> None:
    """The verdict for people."""
    print(
        f"{cluster}: produced {figures.produced}, fates {figures.fates}, "
        f"lost {figures.lost}, duplicates {figures.duplicates}"
    )
    notices = "".join(f", {sink} {count}" for sink, count in sorted(figures.notices.items()))
    print(f"  retries {figures.retries}, timeout letters {figures.letters_of_timeouts}{notices}")
    for rule in rules:
        print(f"  {'ok    ' if rule.ok else 'BREACH'}  {rule.rule:32} {rule.detail}")


def main() -> int:
    """0 when every rule holds, 1 on any breach, 2 when the run left nothing to judge it by."""
    options = arguments()
    try:
        return verdict(options)
    except FactsMissing as exc:
        print(f"no verdict: {exc}", file=sys.stderr)
        return BAD_USE


def verdict(options: argparse.Namespace) -> int:
    """Judge every cluster, write the report. Raises FactsMissing."""
    figures: dict[str, Counts] = {}
    rules: list[Rule] = []
    for cluster in CLUSTERS:
        facts = gather(
            cluster,
            brokers=options.brokers,
            stores=Stores(
                database_url=options.database_url,
                redis_url=options.redis_url,
                mongo_uri=options.mongo_uri,
            ),
            run=options.run,
        )
        figures[cluster.name], judged = counts(facts), judge(facts, cluster.name)
        show(cluster.name, figures[cluster.name], judged)
        rules += judged
    if options.report is not None:
        options.report.write_text(json.dumps(report(figures, rules), indent=2))
    return 0 if all(rule.ok for rule in rules) else 1


if __name__ == "__main__":
    sys.exit(main())
