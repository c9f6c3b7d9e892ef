"""``python -m docs.examples.send TOPIC VALUE``: write one message and wait until Kafka has it.

The brokers are ``--brokers``, by default ``localhost:9092``.
"""

from __future__ import annotations

import argparse
import sys

from confluent_kafka import KafkaError, Message, Producer

SECONDS = 10


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(prog="python -m docs.examples.send", description=__doc__)
    root.add_argument("topic")
    root.add_argument("value")
    root.add_argument("--brokers", default="localhost:9092")
    return root


def main() -> int:
    """0 when the broker stored the message, 1 when it did not."""
    given = parser().parse_args()
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
