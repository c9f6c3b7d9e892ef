"""``python -m docs.examples.send TOPIC VALUE``: write one message and wait until Kafka has it.

The brokers are ``--brokers``, else ``DRAKKAR_BROKERS`` (``source .run/env``), else, and then it is
said, ``localhost:9092``.
"""

from __future__ import annotations

import argparse
import os
import sys

from confluent_kafka import KafkaError, Message, Producer

SECONDS = 10


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(prog="python -m docs.examples.send", description=__doc__)
    root.add_argument("topic")
    root.add_argument("value")
    root.add_argument("--brokers", default=os.environ.get("DRAKKAR_BROKERS"))
    return root


def main() -> int:
    """0 when the broker stored the message, 1 when it did not."""
    given = parser().parse_args()
    if not given.brokers:
        given.brokers = "localhost:9092"
        sys.stderr.write(
            "send: to localhost:9092, for there is no --brokers and no DRAKKAR_BROKERS\n"
        )
    stored: list[str] = []

    def report(error: KafkaError | None, message: Message) -> None:
        if error is None:
            stored.append(f"{message.topic()}:{message.partition()}:{message.offset()}")
        else:
            sys.stderr.write(f"send: {error.str()}\n")

    producer = Producer({"bootstrap.servers": given.brokers, "message.timeout.ms": SECONDS * 1000})
    producer.produce(given.topic, given.value.encode(), on_delivery=report)
    producer.flush(SECONDS + 1)
    sys.stdout.writelines(f"stored as {place}\n" for place in stored)
    return 0 if stored else 1


if __name__ == "__main__":
    sys.exit(main())
