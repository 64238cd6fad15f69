"""Part of the simulated plant in; two buckets of it, one of a live run, one of its replay, out.

Live: its sensors speak through Kafka to a worker while people give their orders. Replay: what was
recorded meanwhile, from files by `echowatch replay`, to another worker with a bucket of its own and
the same orders at the same moments of the signals.
"""

import itertools
import time
from dataclasses import dataclass, replace
from pathlib import Path

from connectors.files.times import format_time
from connectors.files.write import write_recordings
from pipeline.messages import Flags, SensorChunk
from pipeline.orders import new_order
from pipeline.services import live_alarms
from pipeline.simulation.fleet import fleet_yaml
from pipeline.simulation.life import Life
from pipeline.simulation.story import MACHINES, PLANT, SAYINGS, Mishap, Saying
from worker_cases import Plant, wait_for

HISTORY_S, EVERY_S = 6 * 3600.0, 150.0
# Of 144 captures; the story is quiet for 51.
LEARNT_WINDOWS = 45
# A worn bearing, a clipped and a lossy sensor, a repair, one that still learns, a silent one.
SPOTS = {
    "pump3": ("de", "nde"),
    "pump5": ("de",),
    "gearbox1": ("in", "out"),
    "cylinder1": ("drive_side", "tender_side"),
    "cylinder2": ("drive_side",),
    "pump7": ("nde", "motor"),
}
# And what the story of the whole plant has elsewhere: a dead sensor, a capture with a hole.
DEAD = ("pump7", "motor", Mishap("flatline", 0.62))
HOLE = ("mill/wet_end/pump3/nde", 120)
SHELVED = Saying(0.9, "wet_end/pump3", "shelve", "eva", "part ordered", shelve_h=24.0)
# The worker writes its own points every 10 s.
PIPELINE_S = 25.0


@dataclass
class Story:
    """What is told twice.

    Attributes:
        life: Of some machines of the plant.
        chunks: All that its sensors say.
        folder: Recordings of the same.
        fleet_file: That the workers read.
    """

    life: Life
    chunks: list[SensorChunk]
    folder: Path
    fleet_file: Path

    @property
    def end_ns(self):
        return self.life.at_ns(1.0)

    def orders(self):
        """(moment, orders that people give then), in order of time."""
        paths = {machine.path for machine in self.life.machines}
        said = sorted((*SAYINGS, SHELVED), key=lambda one: one.at)
        told = [one for one in said if one.machine in paths]
        for at, together in itertools.groupby(told, key=lambda one: one.at):
            yield self.life.at_ns(at), [o for one in together for o in self._orders(one, at)]

    def _orders(self, said, at):
        sensors = [channel.sensor for channel in self.life.channels]
        return [
            new_order(sensor.sensor_id, said.action, by=said.by, why=said.why,
                      at_ns=self.life.at_ns(at), shelve_s=said.shelve_h * 3600.0)
            for sensor in sensors
            if sensor.asset == f"{PLANT}/{said.machine}"
        ]  # fmt: skip

    def parts(self):
        """(begin, end, orders that follow) of each stretch between orders."""
        begin_ns = self.life.start_ns
        for at_ns, orders in self.orders():
            yield begin_ns, at_ns, orders
            begin_ns = at_ns
        yield begin_ns, self.end_ns, []


def story(folder):
    """A story that ends now, and its recordings."""
    machines = tuple(_some(machine) for machine in MACHINES if machine.name in SPOTS)
    life = Life(0, time.time_ns() - round(HISTORY_S * 1e9), HISTORY_S, EVERY_S, machines)
    fleet_file = folder / "fleet.yaml"
    fleet_file.write_text(fleet_yaml(machines), encoding="utf-8")
    recorded = folder / "recorded"
    whole = life.chunks(life.start_ns, life.at_ns(1.0))
    chunks = [part for chunk in whole for part in _with_hole(chunk)]
    write_recordings(chunks, recorded, container="wav")
    return Story(life, chunks, recorded, fleet_file)


def _some(machine):
    """A machine with the sensors that are told of."""
    name, point, mishap = DEAD
    spots = [spot for spot in machine.spots if spot.point in SPOTS[machine.name]]
    return replace(
        machine,
        spots=tuple(
            replace(spot, mishap=mishap) if (machine.name, spot.point) == (name, point) else spot
            for spot in spots
        ),
    )


def _with_hole(chunk):
    """A capture; one of them without its middle, which is one chunk more."""
    sensor_id, at = HOLE
    if chunk.sensor_id != sensor_id or chunk.seq < at:
        return [chunk]
    if chunk.seq > at:
        return [replace(chunk, seq=chunk.seq + 1)]
    third = chunk.samples.size // 3
    late_ns = round(2 * third / chunk.sample_rate_hz * 1e9)
    first = replace(chunk, samples=chunk.samples[:third], flags=Flags(0))
    rest = replace(chunk, samples=chunk.samples[2 * third :], start_ns=chunk.start_ns + late_ns)
    return [first, replace(rest, seq=at + 1)]


class Run:
    """One worker that hears a story into a bucket of its own.

    Attributes:
        worked: Begin and end of that, ms.
    """

    def __init__(self, kafka, influx, folder, story):
        self.story, self.folder = story, folder
        settings = {
            "ECHOWATCH_WORKER__FLEET": str(story.fleet_file),
            # The story has ended when its boards are looked at: nobody falls silent by that.
            "ECHOWATCH_WINDOWS__MIN_SILENCE_S": "600",
            "ECHOWATCH_LEARNING__MIN_WINDOWS": str(LEARNT_WINDOWS),
        }
        # A silence is heard where others of its partition go on.
        self.plant = Plant(kafka, influx, folder, partitions=2, settings=settings)
        self.worker = self.plant.start()
        self.worked = (0, 0)

    @property
    def bucket(self):
        return self.plant.bucket

    def hear(self, tell):
        """Hear all of the story; `tell` sends one stretch of it."""
        wait_for(self.worker.ready, "the worker")
        began_ms = time.time_ns() // 10**6
        for begin_ns, end_ns, orders in self.story.parts():
            tell(self, begin_ns, end_ns)
            self.plant.finish()
            self._obey(orders)
        time.sleep(max(0.0, began_ms / 1000 + PIPELINE_S - time.time()))
        self.worked = (began_ms, time.time_ns() // 10**6)

    def _obey(self, orders):
        kafka = self.plant.conf.kafka
        with live_alarms.asking(self.plant.access, kafka, orders, listen=True) as asked:
            heard = wait_for(
                lambda: live_alarms.wait(asked, 1.0) or _all_heard(asked), "orders to be obeyed"
            )
        assert heard
        assert not [answer.refused for answer in asked.answers.values() if answer.refused]
        self.plant.finish()


def _all_heard(asked):
    return all(answer.heard for answer in asked.answers.values())


def live(run, begin_ns, end_ns):
    """The sensors themselves."""
    run.plant.send(c for c in run.story.chunks if begin_ns <= c.start_ns < end_ns)


def replayed(run, begin_ns, end_ns):
    """What they said, from files."""
    done = run.plant.run(
        *("replay", str(run.story.folder), "--speed", "max"),
        *("--from", format_time(begin_ns), "--until", format_time(end_ns)),
        *("--resume", str(run.folder / f"{run.plant.name}-{begin_ns}.json")),
        deadline_s=300,
    )
    assert done.returncode == 0, done.stderr
