"""Judges a run of the demo from the outside: what went in, what came out, and where it stands."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from integration.verdict_facts import Topics, gather
from integration.verdict_rules import Counts, Rule, counts, judge


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m integration.verdict", description=__doc__)
    parser.add_argument("--brokers", default="127.0.0.1:9092")
    parser.add_argument("--database-url", required=True)
    parser.add_argument("--committed", type=Path, default=Path(".run/committed.jsonl"))
    parser.add_argument("--faults", type=Path, default=Path(".run/faults.jsonl"))
    parser.add_argument("--report", type=Path)
    parser.add_argument("--cluster", default="main")
    parser.add_argument("--group", default="drakkar-integration")
    parser.add_argument("--source", default="search-requests")
    parser.add_argument("--results", default="search-results")
    parser.add_argument("--letters", default="search-requests_dlq")
    return parser.parse_args(argv)


def report(cluster: str, figures: Counts, rules: Sequence[Rule]) -> dict[str, object]:
    """The report file's content."""
    return {
        "ok": all(rule.ok for rule in rules),
        "clusters": {cluster: asdict(figures)},
        "rules": [asdict(rule) for rule in rules],
    }


def show(cluster: str, figures: Counts, rules: Sequence[Rule]) -> None:
    """The verdict for people."""
    print(
        f"{cluster}: produced {figures.produced}, fates {figures.fates}, "
        f"lost {figures.lost}, duplicates {figures.duplicates}"
    )
    for rule in rules:
        print(f"  {'ok    ' if rule.ok else 'BREACH'}  {rule.rule:32} {rule.detail}")


def main() -> int:
    """0 when every rule holds, 1 on any breach."""
    options = arguments()
    facts = gather(
        topics=Topics(options.brokers, options.group),
        database_url=options.database_url,
        names=(options.source, options.results, options.letters),
        cluster=options.cluster,
        committed_path=options.committed,
        faults_path=options.faults,
    )
    figures, rules = counts(facts), judge(facts, options.cluster)
    show(options.cluster, figures, rules)
    if options.report is not None:
        options.report.write_text(json.dumps(report(options.cluster, figures, rules), indent=2))
    return 0 if all(rule.ok for rule in rules) else 1


if __name__ == "__main__":
    sys.exit(main())
