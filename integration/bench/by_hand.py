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


async def main(
    brokers: str, source: str, results: str, group: str, slots: int, program: str
) -> None:
    """Consume until SIGTERM."""
    offsets_by_hand = {"enable.auto.commit": False, "auto.offset.reset": "earliest"}
    consumer = Consumer({"bootstrap.servers": brokers, "group.id": group, **offsets_by_hand})
    producer = Producer({"bootstrap.servers": brokers, "enable.idempotence": True, "linger.ms": 5})
    unfinished: defaultdict[int, OrderedDict[int, bool]] = defaultdict(OrderedDict)
    stopped, free = asyncio.Event(), asyncio.Semaphore(slots)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)

    def forget(_: Consumer, gone: list[TopicPartition]) -> None:
        for one in gone:
            unfinished.pop(one.partition, None)

    consumer.subscribe([source], on_revoke=forget)

    async def handle(message: Message) -> None:
        partition, offset = message.partition(), message.offset()
        assert partition is not None
        assert offset is not None
        request = json.loads(message.value() or b"{}")
        try:
            process = await asyncio.create_subprocess_exec(program, stdout=asyncio.subprocess.PIPE)
            await process.communicate()
        finally:
            free.release()
        value = json.dumps({"number": request["number"], "sent_ns": request["sent_ns"]})
        producer.produce(results, value.encode(), on_delivery=lambda *_: done(partition, offset))

    def done(partition: int, offset: int) -> None:
        if offset in unfinished[partition]:
            unfinished[partition][offset] = True

    async def serve_producer() -> None:
        while True:
            producer.poll(0)
            await asyncio.sleep(POLL_SECONDS)

    async def commit() -> None:
        while True:
            await asyncio.sleep(COMMIT_SECONDS)
            passed = []
            for partition, offsets in unfinished.items():
                last = None
                while offsets and offsets[next(iter(offsets))]:
                    last = offsets.popitem(last=False)[0]
                if last is not None:
                    passed.append(TopicPartition(source, partition, last + 1))
            if passed:
                consumer.commit(offsets=passed, asynchronous=True)

    async with asyncio.TaskGroup() as tasks:
        helpers = [tasks.create_task(serve_producer()), tasks.create_task(commit())]
        while not stopped.is_set():
            messages = await asyncio.to_thread(consumer.consume, READ_AT_ONCE, 0.05)
            for message in messages:
                unfinished[message.partition() or 0][message.offset() or 0] = False
            for message in messages:
                await free.acquire()
                tasks.create_task(handle(message))
        for helper in helpers:
            helper.cancel()
    producer.flush(5)
    consumer.close()


if __name__ == "__main__":
    brokers, source, results, group, slots, program = sys.argv[1:]
    asyncio.run(main(brokers, source, results, group, int(slots), program))
