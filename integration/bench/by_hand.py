"""The worker that one writes in an afternoon: what ours must beat.

``python -m integration.bench.by_hand BROKERS SOURCE RESULTS GROUP SLOTS PROGRAM``. It keeps one
promise: an offset is committed when everything before it is done and delivered. It has no history,
deadline, retry, dead letter, limit, page, bound on bytes, or drain.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections import OrderedDict, defaultdict

from confluent_kafka import Consumer, Message, Producer, TopicPartition

READ_AT_ONCE = 500
COMMIT_SECONDS = 0.5
POLL_SECONDS = 0.002


class WorkerByHand:
    """One consumer, one producer, and so many programs at once."""

    def __init__(self, brokers: str, source: str, results: str, group: str, slots: int) -> None:
        settings = {"bootstrap.servers": brokers, "group.id": group, "enable.auto.commit": False}
        self.consumer = Consumer({**settings, "auto.offset.reset": "earliest"})
        producer = {"bootstrap.servers": brokers, "enable.idempotence": True, "linger.ms": 5}
        self.producer = Producer(producer)
        self.source, self.results = source, results
        self.free = asyncio.Semaphore(slots)
        self.is_done: defaultdict[int, OrderedDict[int, bool]] = defaultdict(OrderedDict)

    async def run(self, program: str) -> None:
        """Consume until SIGTERM."""
        stopped = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
        self.consumer.subscribe([self.source], on_revoke=self.forget)
        async with asyncio.TaskGroup() as tasks:
            helpers = [tasks.create_task(self.serve_producer()), tasks.create_task(self.commit())]
            while not stopped.is_set():
                messages = await asyncio.to_thread(self.consumer.consume, READ_AT_ONCE, 0.05)
                for message in messages:
                    self.is_done[message.partition() or 0][message.offset() or 0] = False
                for message in messages:
                    await self.free.acquire()
                    tasks.create_task(self.handle(message, program))
            for helper in helpers:
                helper.cancel()
        self.producer.flush(5)
        self.consumer.close()

    def forget(self, _: Consumer, gone: list[TopicPartition]) -> None:
        for one in gone:
            self.is_done.pop(one.partition, None)

    async def handle(self, message: Message, program: str) -> None:
        partition, offset = message.partition() or 0, message.offset() or 0
        request = json.loads(message.value() or b"{}")
        try:
            process = await asyncio.create_subprocess_exec(program, stdout=asyncio.subprocess.PIPE)
            await process.communicate()
        finally:
            self.free.release()

        def delivered(*_: object) -> None:
            if offset in self.is_done[partition]:
                self.is_done[partition][offset] = True

        value = json.dumps({"number": request["number"], "sent_ns": request["sent_ns"]})
        self.producer.produce(self.results, value.encode(), on_delivery=delivered)

    async def serve_producer(self) -> None:
        while True:
            self.producer.poll(0)
            await asyncio.sleep(POLL_SECONDS)

    async def commit(self) -> None:
        while True:
            await asyncio.sleep(COMMIT_SECONDS)
            passed = []
            for partition, offsets in self.is_done.items():
                last = None
                while offsets and offsets[next(iter(offsets))]:
                    last = offsets.popitem(last=False)[0]
                if last is not None:
                    passed.append(TopicPartition(self.source, partition, last + 1))
            if passed:
                self.consumer.commit(offsets=passed, asynchronous=True)


async def main() -> None:
    brokers, source, results, group, slots, program = sys.argv[1:]
    await WorkerByHand(brokers, source, results, group, int(slots)).run(program)


if __name__ == "__main__":
    asyncio.run(main())
