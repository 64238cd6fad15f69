"""Checkpoints hold what was told, and nothing else."""

import asyncio
import threading
from dataclasses import replace

from pipeline.messages import Point
from pipeline.streaming.delivery import Delivery
from pipeline.streaming.metrics import Metrics
from pipeline.streaming.stage import Begun, Outcome, Outgoing, Partition, Received, StateWrite

SIGNALS = Partition("signals", 0)
GENERATION = 7


class Hearing:
    """A stage whose state is the list of offsets it has heard; it tells of each at the end."""

    alone = False

    def __init__(self, fails_on=None, waits=None):
        self._fails_on, self._waits = fails_on, waits
        self._heard = []
        self.began = threading.Event()

    def assign(self, states, ends):  # noqa: ARG002  (a protocol)
        self._heard = []

    def begin(self, batch):
        self._heard += [message.offset for message in batch]
        self.began.set()
        if self._waits is not None:
            assert self._waits.wait(10)
        if self._fails_on in self._heard:
            raise KeyError("a mistake of ours")
        return Begun(lambda: self.tell(batch), alone=self.alone)

    def tell(self, batch):
        return Outcome(messages=[Outgoing("told", b"", b"%d" % m.offset) for m in batch])

    def tick(self, elapsed_ns):  # noqa: ARG002  (a protocol)
        return Outcome()

    def snapshot(self):
        return [StateWrite(0, b"live|s", repr(self._heard).encode())]


class Stored:
    """A store that has everything at once."""

    confirmed = pending_bytes = 0

    def put(self, points):  # noqa: ARG002  (a protocol)
        return 0


class Log:
    """A broker that keeps everything in memory."""

    def __init__(self):
        self.sent, self.commits, self.sought = [], [], []

    async def send(self, message):
        self.sent.append((message.topic, message.value))
        done = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    def caught_up(self):
        return False

    def transient(self, error):  # noqa: ARG002  (a protocol)
        return False

    def stored(self, write):
        pass

    async def seek(self, partition, offset):
        self.sought.append((partition, offset))

    async def commit(self, offsets):
        self.commits.append(dict(offsets))
        return True


async def begun(stage, log, store=None, metrics=None, checkpoint_s=1000.0):
    """A running delivery, by default without checkpoints but the last."""
    delivery = Delivery(
        stage,
        store or Stored(),
        log,
        state_topic="state",
        metrics=metrics or Metrics("signals"),
        checkpoint_s=checkpoint_s,
        trust_s=1000.0,
        max_bytes=1e6,
        max_messages=100,
        cost=lambda _: 1.0,
    )
    await delivery.assign(GENERATION, {}, {})
    return delivery, asyncio.ensure_future(delivery.run())


async def admit(delivery, *offsets):
    for offset in offsets:
        await delivery.admit(Received(SIGNALS, offset, b"", b"x", {}), GENERATION)


async def settled(condition):
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  (of the delivery's own thread)
            await asyncio.sleep(0.001)


def test_a_batch_counts_as_stored_when_the_sink_has_it_and_no_sooner():
    class Slow(Stored):
        given = 0

        def put(self, points):  # noqa: ARG002  (a protocol)
            self.given += 1
            return self.given

    class Telling(Hearing):
        def tell(self, batch):
            point = Point("m", (), {"x": 1.0}, 1)
            return replace(super().tell(batch), points=[point])

    async def story():
        store, metrics = Slow(), Metrics("signals")
        delivery, _ = await begun(Telling(), Log(), store, metrics)
        await admit(delivery, 1, 2)
        await settled(lambda: delivery.done == 2)
        counts = []
        for store.confirmed in (0, 1, 2):
            delivery.progress()
            text = metrics.text()[0].decode()
            name = "echowatch_received_to_stored_seconds_count"
            line = next(one for one in text.splitlines() if one.startswith(name))
            counts.append(float(line.split()[-1]))
        await delivery.close(5.0)
        return counts

    assert asyncio.run(story()) == [0, 1, 2]


def test_a_full_ledger_makes_room_before_a_checkpoint_is_due():
    async def story():
        log = Log()
        delivery, _ = await begun(Hearing(), log)  # room for 100
        async with asyncio.timeout(10):
            await admit(delivery, *range(350))
        await settled(lambda: delivery.done == 350)
        await delivery.close(5.0)
        return log

    assert asyncio.run(story()).commits[-1] == {SIGNALS: 350}


def test_a_batch_that_fails_is_in_no_checkpoint():
    async def story():
        log = Log()
        delivery, running = await begun(Hearing(fails_on=2), log)
        await admit(delivery, 1)
        await settled(lambda: delivery.done == 1)
        await admit(delivery, 2)
        await asyncio.wait([running], timeout=10)
        assert isinstance(running.exception(), KeyError)
        await delivery.close(5.0)
        return log

    log = asyncio.run(story())
    assert log.sent == [("told", b"1")]
    assert log.commits == []


def test_the_end_keeps_what_was_told_of_the_batch_in_hand():
    async def story():
        log, go_on = Log(), threading.Event()
        stage = Hearing(waits=go_on)
        delivery, running = await begun(stage, log)
        await admit(delivery, 1)
        await settled(stage.began.is_set)
        ending = asyncio.ensure_future(delivery.close(10.0))
        await asyncio.sleep(0)
        go_on.set()
        assert await ending
        await running
        return log

    log = asyncio.run(story())
    assert log.sent == [("told", b"1"), ("state", b"[1]")]
    assert log.commits == [{SIGNALS: 2}]


def test_a_stage_that_never_ends_keeps_nobody_waiting():
    async def story():
        log, never = Log(), threading.Event()
        stage = Hearing(waits=never)
        delivery, running = await begun(stage, log)
        await admit(delivery, 1)
        await settled(stage.began.is_set)
        assert delivery.waiting == 1  # or the watchdog would not see that nothing moves
        ended = await delivery.close(0.1)
        running.cancel()
        await asyncio.wait([running], timeout=10)
        never.set()
        return log, ended

    log, ended = asyncio.run(story())
    assert not ended
    assert log.sent == []
    assert log.commits == []


def test_after_a_gap_a_partition_is_read_again_from_where_it_must_go_on():
    async def story():
        log = Log()
        delivery, running = await begun(Hearing(), log)
        await delivery.assign(GENERATION, {}, {}, {SIGNALS: 7})
        await admit(delivery, 8, 7, 8)
        await settled(lambda: delivery.done == 2)
        await delivery.close(5.0)
        await asyncio.wait([running], timeout=10)
        return log

    log = asyncio.run(story())
    assert log.sought == [(SIGNALS, 7)]
    assert log.sent[-1] == ("state", b"[7, 8]")
    assert log.commits == [{SIGNALS: 9}]


def test_a_checkpoint_that_is_given_up_ends_nothing_but_itself():
    async def story():
        log, store = Log(), Stored()
        store.confirmed = -1  # it has nothing yet
        delivery, running = await begun(Hearing(), log, store)
        await admit(delivery, 1)
        await settled(lambda: delivery.done == 1)
        leaving = asyncio.ensure_future(delivery.revoke(0.1))
        await settled(delivery._busy.locked)
        delivery._wake.set()  # as its tick does once a second
        await leaving
        await asyncio.wait([running], timeout=0.05)
        assert not running.done()
        store.confirmed = 0
        await delivery.assign(GENERATION + 1, {}, {}, {SIGNALS: 1})
        await delivery.admit(Received(SIGNALS, 1, b"", b"x", {}), GENERATION + 1)
        await settled(lambda: delivery.done == 2)
        await delivery.close(5.0)
        await running
        return log

    assert asyncio.run(story()).commits == [{SIGNALS: 2}]


def test_after_a_checkpoint_was_thrown_away_none_releases_its_messages():
    class Fenced(Log):
        async def commit(self, offsets):
            await super().commit(offsets)
            return len(self.commits) > 1  # by then it is not known any more that we were away

    async def story():
        log = Fenced()
        delivery, running = await begun(Hearing(), log)
        await admit(delivery, 1)
        await settled(lambda: delivery.done == 1)
        delivery.checkpoints.standing.doubt()
        await delivery._finish_all()
        await admit(delivery, 2)
        await asyncio.wait([running], timeout=0.2)  # time to process what it has taken
        await delivery.close(5.0)
        await running
        return log

    log = asyncio.run(story())
    assert log.commits == [{SIGNALS: 1}]  # the question whether it is ours
    assert [topic for topic, _ in log.sent] == ["told"]
