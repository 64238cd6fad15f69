"""A batch that is begun is finished once, or given up; no checkpoint knows of half of one."""

import asyncio
import json
import threading

from test_delivery import SIGNALS, Hearing, Log, admit, begun, settled


def test_while_more_waits_the_next_batch_begins_before_one_is_finished():
    class Noting(Hearing):
        def __init__(self):
            super().__init__()
            self.noted = []

        def begin(self, batch):
            self.noted.append(f"begin {batch[0].offset}")
            return super().begin(batch)

        def tell(self, batch):
            self.noted.append(f"end {batch[0].offset}")
            return super().tell(batch)

    async def story(stage):
        delivery, _ = await begun(stage, Log())
        await admit(delivery, 1, 2, 3)
        await settled(lambda: delivery.done == 3)
        await delivery.close(5.0)
        return stage.noted

    told = ["begin 1", "begin 2", "end 1", "begin 3", "end 2", "end 3"]
    assert asyncio.run(story(Noting())) == told
    lonely = Noting()
    lonely.alone = True
    apart = ["begin 1", "end 1", "begin 2", "end 2", "begin 3", "end 3"]
    assert asyncio.run(story(lonely)) == apart


def test_a_checkpoint_holds_whole_batches_though_the_next_one_has_begun():
    async def story():
        log = Log()
        delivery, _ = await begun(Hearing(), log, checkpoint_s=1e-6)
        await admit(delivery, *range(1, 9))
        await settled(lambda: log.commits and log.commits[-1] == {SIGNALS: 9})
        await delivery.close(5.0)
        return log

    log = asyncio.run(story())
    assert len(log.commits) > 1
    told = []
    stored = []
    for topic, value in log.sent:
        if topic == "told":
            told.append(int(value))
        else:
            stored.append((json.loads(value), list(told)))
    assert [{SIGNALS: heard[-1] + 1} for heard, _ in stored] == log.commits
    assert all(heard == said for heard, said in stored)


class Ending(Hearing):
    """Notes which batches end, waits at the end of each for a gate, and may fail at one once."""

    def __init__(self, fails_at=None):
        super().__init__()
        self.ended = []
        self.gate = threading.Event()
        self.gate.set()
        self._fails_at = fails_at

    def tell(self, batch):
        self.ended.append(batch[0].offset)
        assert self.gate.wait(10)
        if batch[0].offset == self._fails_at:
            self._fails_at = None
            raise KeyError("a mistake of ours")
        return super().tell(batch)


async def with_one_begun(stage, log):
    """A delivery that has begun with a batch, and with another message waiting."""
    delivery, running = await begun(stage, log)
    delivery._fills_a_batch = lambda: True  # no gathering: the moment would pass
    step = delivery._step

    async def first_step_only():
        await step()
        delivery._step = stopped

    async def stopped():
        pass

    delivery._step = first_step_only
    await admit(delivery, 1, 2)
    await settled(lambda: delivery._step is stopped)
    assert (delivery.waiting, stage.ended) == (2, [])
    delivery._step = step
    return delivery, running


def test_a_batch_that_is_begun_ends_once_though_giving_it_up_comes_in_between():
    async def story():
        stage, log = Ending(), Log()
        delivery, running = await with_one_begun(stage, log)
        delivery._checkpoint_s = 0.0  # one is due as soon as anybody asks
        stage.gate.clear()
        given_back = asyncio.ensure_future(delivery.revoke(0.2))
        await settled(lambda: stage.ended == [1])
        await given_back
        stage.gate.set()
        await delivery.close(5.0)
        await running
        return stage, log

    stage, log = asyncio.run(story())
    assert stage.ended == [1]
    assert not log.sent
    assert not log.commits


def test_what_fails_while_partitions_are_given_back_ends_the_processing():
    async def story():
        stage, log = Ending(fails_at=1), Log()
        delivery, running = await with_one_begun(stage, log)
        await delivery.revoke(5.0)
        assert not delivery.ready
        await asyncio.wait([running])
        await delivery.close(5.0)
        return stage, log, running

    stage, log, running = asyncio.run(story())
    assert isinstance(running.exception(), KeyError)
    assert stage.ended == [1]
    assert not log.sent
    assert not log.commits


def test_what_fails_at_the_end_is_kept_for_whoever_ends_it():
    async def story():
        stage, log = Ending(fails_at=1), Log()
        delivery, _ = await with_one_begun(stage, log)
        finished = await delivery.close(5.0)
        return delivery, finished, log

    delivery, finished, log = asyncio.run(story())
    assert not finished
    assert isinstance(delivery.lost, KeyError)
    assert not log.sent
    assert not log.commits


def test_a_batch_that_is_begun_goes_with_partitions_that_are_lost_while_standing_still():
    class Fenced(Log):
        async def commit(self, offsets):
            return not offsets

    async def story():
        stage, log = Ending(), Fenced()
        delivery, _ = await with_one_begun(stage, log)
        delivery.checkpoints.standing.doubt()
        delivery._disown()
        await delivery.close(5.0)
        return stage, log

    stage, log = asyncio.run(story())
    assert not stage.ended
    assert not log.sent
