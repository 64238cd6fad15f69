"""A plan of disturbances in; whether a plant of workers gives what an undisturbed run gives out.

Workers are killed, frozen, added and removed, Kafka and InfluxDB are stopped, all while signals
come in. In the end every window must be there once, nothing learnt twice, all alarms and states the
same. The plan follows from the seed, the moments within it do not.

    make soak
    python tests/soak.py --short --seed 7
"""

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import services
from pipeline.settings import load
from service_influx import InfluxServer
from service_kafka import KafkaServer
from soak_cases import Crew, Feeder, Stream, Truth, Watcher, partitions_of
from soak_checks import differences, unhandled
from worker_cases import Plant

SESSION_S = 6.0


@dataclass(frozen=True)
class Plan:
    """What is done, and how long.

    Attributes:
        steps: Names of methods of `Soak`; shuffled by the seed.
        seconds: Over which the stream is spread; what is left afterwards is sent at once.
        checkpoint_s: Small ones make it likely that a worker freezes amid a checkpoint.
    """

    steps: tuple
    seconds: float
    captures: int
    freeze_s: float
    influx_s: float
    sensors: int = 40
    workers: int = 3
    checkpoint_s: float = 1.0


LONG = Plan(
    steps=(
        *("kill",) * 8,
        *("kill_twice", "kill_without_influx", "kill_without_kafka"),
        *("freeze",) * 3,
        *("zombie",) * 6,
        *("kafka_stops", "kafka_stops", "kafka_is_killed"),
        *("influx_stops", "influx_stops"),
        *("add", "remove", "remove"),
    ),
    seconds=900.0,
    captures=300,
    freeze_s=20.0,
    influx_s=60.0,
    checkpoint_s=0.5,
)
SHORT = Plan(
    steps=("kill", "kill_twice", "zombie", "kafka_stops", "influx_stops", "remove"),
    seconds=110.0,
    captures=100,
    freeze_s=9.0,
    influx_s=8.0,
    checkpoint_s=0.5,
)


class Soak:
    """One run.

    Args:
        plan: What to do.
        seed: Of the plan and the stream.
        kafka, influx: Servers of our own.
        folder: For logs.
        say: Takes a line of progress.
    """

    def __init__(self, plan, seed, *, kafka, influx, folder, say):
        self.plan, self.kafka, self.influx = plan, kafka, influx
        self.random = random.Random(seed)  # noqa: S311  (no secret)
        self.stream = Stream(seed, plan.sensors, plan.captures)
        fleet_file = folder / "fleet.yaml"
        fleet_file.write_text(self.stream.plant.fleet_yaml, encoding="utf-8")
        self.plant = Plant(kafka, influx, folder, settings={
            "ECHOWATCH_LEARNING__MIN_WINDOWS": "32",
            "ECHOWATCH_WORKER__SESSION_TIMEOUT_S": str(SESSION_S),
            "ECHOWATCH_WORKER__CHECKPOINT_S": str(plan.checkpoint_s),
        })  # fmt: skip
        self.crew = Crew(self.plant, self.stream, fleet_file)
        self.feeder = Feeder(self.plant, self.stream, plan.seconds)
        self.watcher = Watcher(self.plant)
        self.done, self.wrong = Counter(), []
        self._say, self._began_s = say, time.monotonic()

    def say(self, text):
        self._say(f"{time.monotonic() - self._began_s:6.1f} s {self.feeder.share:4.0%}  {text}")

    def run(self):
        """Do it all; give what differs, in words."""
        try:
            self._disturb()
            self.feeder.finish(300.0)
            self.crew.restore(self.plan.workers)
            self.plant.finish(300.0)
            self.watcher.end()
            self.say("all acknowledged; computing the truth")
            truth = Truth(self.stream, load(self.plant.environment))
            self.say(f"truth: {len(truth.windows)} windows, {len(truth.transitions)} transitions, "
                     f"{len(truth.cases)} cases")  # fmt: skip
            assert any(t.after == "alarm" for t in truth.transitions.values()), "no alarm at all"
            self.wrong += differences(self.plant, truth)
            self._end()
        finally:
            self.plant.close()
        self.wrong += [f"offsets fell: {text}" for text in self.watcher.fell]
        self.wrong += [f"unhandled: {text}" for text in unhandled(self.plant.workers)]
        self.wrong += [
            f"{worker.log.name} ended with {code}: {worker.text[-600:]}"
            for worker, code in self.crew.ended
        ]
        return self.wrong

    def _disturb(self):
        for _ in range(self.plan.workers):
            self.crew.add()
        self.watcher.start()
        self.crew.wait_ready()
        self.say(f"{self.plan.workers} workers are at work")
        self.feeder.start()
        steps = list(self.plan.steps)
        self.random.shuffle(steps)
        for number, step in enumerate(steps, start=1):
            self.feeder.ahead = 0.9 * number / len(steps)
            time.sleep(self.random.uniform(0.5, 3.0))
            self.say(step)
            getattr(self, step)()
            self.done[step] += 1
            if self.crew.restore(self.plan.workers):
                self.say("started anew")
            self.crew.wait_ready()
        if not self.feeder.is_alive():
            self.wrong.append("the stream ended before the disturbances: raise `seconds`")
        self.say("all done; sending the rest")

    def _end(self):
        """The last ones end in order."""
        for worker in self.crew.alive:
            if (code := worker.end()) != 0:
                self.wrong.append(f"{worker.log.name}: SIGTERM gave {code}")

    def _victim(self):
        return self.random.choice(self.crew.at_work())

    def kill(self):
        """Half of them are started anew at once, the others when the partitions are taken over."""
        victim = self._victim()
        lost, since_s = partitions_of(victim), time.monotonic()
        self.crew.kill(victim)
        if self.random.random() < 0.5:
            self.crew.add()
        self._measure("SIGKILL", lost, since_s)

    def kill_twice(self):
        """The second one amid the takeover from the first."""
        self.crew.kill(self._victim())
        time.sleep(self.random.uniform(0.0, 1.5 * SESSION_S))
        self.crew.kill(self.random.choice(self.crew.alive))

    def kill_without_influx(self):
        self.influx.stop()
        time.sleep(self.random.uniform(1.0, 5.0))
        self.crew.kill(self._victim())
        time.sleep(2 * SESSION_S)
        self.influx.start()

    def kill_without_kafka(self):
        self.kafka.stop()
        time.sleep(self.random.uniform(1.0, 5.0))
        self.crew.kill(self._victim())
        time.sleep(self.random.uniform(1.0, 5.0))
        self.kafka.start()

    def freeze(self, seconds=None):
        """Others take over; then it goes on, and must find its place again."""
        victim = self._victim()
        lost, since_s = partitions_of(victim), time.monotonic()
        victim.freeze()
        try:
            self._measure("SIGSTOP", lost, since_s)
            rest_s = since_s + (seconds or self.plan.freeze_s) - time.monotonic()
            time.sleep(max(0.0, rest_s))
        finally:
            victim.thaw()

    def zombie(self):
        """As short a freeze as costs the place; with luck amid a checkpoint."""
        self.freeze(1.4 * SESSION_S)

    def kafka_stops(self):
        self.kafka.stop()
        time.sleep(self.random.uniform(2.0, 12.0))
        self.kafka.start()

    def kafka_is_killed(self):
        self.kafka.kill()
        time.sleep(self.random.uniform(0.0, 5.0))
        self.kafka.start()

    def influx_stops(self):
        self.influx.stop()
        time.sleep(self.plan.influx_s)
        self.influx.start()

    def add(self):
        self.crew.add()
        self.crew.wait_ready()

    def remove(self):
        victim = self._victim()
        lost, since_s = partitions_of(victim), time.monotonic()
        if (code := victim.end()) != 0:
            self.wrong.append(f"{victim.log.name}: SIGTERM gave {code}")
        self.crew.alive.remove(victim)
        self._measure("SIGTERM", lost, since_s)

    def _measure(self, what, partitions, since_s):
        self.crew.measure(what, partitions, since_s)
        last = self.crew.takeovers[-1]
        self.say(f"{what} of partitions {partitions}: next windows after {last.first_s:.1f} s, "
                 f"of all after {last.all_s:.1f} s")  # fmt: skip

    def table(self):
        """Takeover times as a table."""
        lines = [
            f"{'takeover':12s} runs  {'first partition gives again':29s}  all give again",
            f"{'':19s}{'min / median / max':29s}  min / median / max",
        ]
        kinds = dict.fromkeys(takeover.what for takeover in self.crew.takeovers)
        for kind in kinds:
            found = [takeover for takeover in self.crew.takeovers if takeover.what == kind]
            first = _spread([takeover.first_s for takeover in found])
            whole = _spread([takeover.all_s for takeover in found])
            lines.append(f"{kind:12s} {len(found):4d}  {first:29s}  {whole}")
        return "\n".join(lines)


def _spread(seconds):
    return f"{min(seconds):.1f} / {statistics.median(seconds):.1f} / {max(seconds):.1f} s"


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1000))
    options.add_argument("--short", action="store_true", help="as in make test")
    options.add_argument("--checkpoint", type=float, metavar="S", help="seconds between them")
    options.add_argument("--steps", help="comma separated, instead of those of the plan")
    options.add_argument("--seconds", type=float, help="over which the stream is spread")
    options.add_argument("--logs", type=Path, help="keep the logs of the workers there")
    given = options.parse_args()
    plan = SHORT if given.short else LONG
    changes = {
        "checkpoint_s": given.checkpoint,
        "steps": tuple(given.steps.split(",")) if given.steps else None,
        "seconds": given.seconds,
    }
    plan = Plan(**{**vars(plan), **{k: v for k, v in changes.items() if v is not None}})
    say = lambda text: print(text, flush=True)  # noqa: E731, T201  (a person waits)
    with (
        tempfile.TemporaryDirectory(prefix="echowatch-soak-") as folder,
        services.started(KafkaServer) as kafka,
        services.started(InfluxServer) as influx,
    ):
        logs = given.logs or Path(folder)
        logs.mkdir(parents=True, exist_ok=True)
        say(f"seed {given.seed}")
        soak = Soak(plan, given.seed, kafka=kafka, influx=influx, folder=logs, say=say)
        wrong = soak.run()
        say(f"\ndone: {dict(soak.done)}; offsets looked at: {soak.watcher.seen}\n{soak.table()}")
    for text in wrong:
        say(f"WRONG  {text}")
    say("identical to the undisturbed run" if not wrong else f"{len(wrong)} differences")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
