"""Settings in; a process that works on its share of a plant until it is told to stop, out.

The two roles are apps of their own, with groups, consumers and threads of their own: signals that
wait for InfluxDB must not keep the cases waiting. What cannot go on ends the process with exit code
1 and a reason; whoever supervises it starts it again, and nothing is lost by that.
"""

import asyncio
import logging
import platform
import signal
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from connectors.influx import InfluxWriter
from pipeline import __version__
from pipeline.fleet import Fleet
from pipeline.monitor import Encoder
from pipeline.points import PointMaker
from pipeline.services.kafka_settings import access_of
from pipeline.services.topics import Role
from pipeline.settings import Settings
from pipeline.streaming.case_stage import CaseStage
from pipeline.streaming.endpoints import Endpoints, Verdict
from pipeline.streaming.metrics import Metrics
from pipeline.streaming.role_runner import RoleRunner
from pipeline.streaming.signal_stage import SignalStage

log = logging.getLogger(__name__)

REPORT_S = 10.0
SINK_CLOSE_S = 2.0
# Our own numbers are not kept for a store that is away for longer: they would have no bound.
KEEP_S = 600.0
LETTERS = "dead_letters_"


class Worker:
    """A worker process.

    Args:
        settings: All of them.
        fleet: What is known of the plant; empty where there is no fleet file.
        encoder: Model; None where only cases are worked on.
        encoder_pid: Of the process that it runs in, if it has one of its own.

    Attributes:
        runners: One per role.

    Raises:
        AccessError, InfluxError: for addresses or secrets that cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        fleet: Fleet,
        encoder: Encoder | None,
        *,
        encoder_pid: int | None = None,
    ) -> None:
        self._settings = settings
        self._fleet = fleet
        self._encoder = encoder
        self._encoder_pid = encoder_pid
        self._stopping = asyncio.Event()
        self._encoding = ThreadPoolExecutor(1, thread_name_prefix="encoder")
        role = settings.worker.role
        roles: tuple[Role, ...] = ("signals", "cases") if role == "all" else (role,)
        self.runners = [self._runner(name) for name in roles]

    def _runner(self, role: Role) -> RoleRunner:
        metrics = Metrics(role)
        model = self._encoder.model_id if self._encoder is not None else ""
        metrics.identify(version=__version__, model=model, host=platform.node())
        stage: SignalStage | CaseStage
        if role == "signals":
            if self._encoder is None:
                raise ValueError("signals need an encoder")
            if self._encoder_pid is not None:
                metrics.watch_encoder(self._encoder_pid)
            stage = SignalStage(
                self._settings,
                self._fleet,
                self._encoder,
                metrics=metrics,
                encoding=self._encoding,
            )
        else:
            stage = CaseStage(self._settings, self._fleet, metrics=metrics)
        access = access_of(self._settings.kafka)
        return RoleRunner(role, self._settings, access, stage=stage, metrics=metrics)

    def stop(self) -> None:
        """Drain and end."""
        if self._stopping.is_set():
            raise KeyboardInterrupt
        log.info("stopping: finishing what was read")
        self._stopping.set()

    async def run(self) -> None:
        """Work until a signal asks to end.

        Raises:
            WorkerFailure: where the worker cannot go on.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        for runner in self.runners:
            await loop.run_in_executor(None, runner.sink.check)
            runner.sink.start()
        endpoints = await self._serve()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._report())
                for runner in self.runners:
                    group.create_task(runner.run(self._stopping))
        except BaseExceptionGroup as errors:
            # The first failure ends the other role as well; it is the one to tell of.
            raise errors.exceptions[0] from errors
        finally:
            self._encoding.shutdown(wait=False, cancel_futures=True)
            await asyncio.gather(*(self._close(runner.sink) for runner in self.runners))
            if endpoints is not None:
                await endpoints.stop()

    async def _close(self, sink: InfluxWriter) -> None:
        """Let our own last numbers out; a store that is away now is not waited for once more."""
        patience_s = SINK_CLOSE_S if sink.stats.failing_since is None else 0.0
        await asyncio.get_running_loop().run_in_executor(None, sink.close, patience_s)

    async def _serve(self) -> Endpoints | None:
        worker = self._settings.worker
        if not worker.port:
            return None
        endpoints = Endpoints(
            worker.host,
            worker.port,
            live=lambda: Verdict(ok=True),
            ready=self._ready,
            metrics=[runner.metrics for runner in self.runners],
        )
        port = await endpoints.start()
        log.info("http://%s:%d/ tells how this worker is", worker.host, port)
        return endpoints

    def _ready(self) -> Verdict:
        found = [runner.ready() for runner in self.runners]
        facts = {name: fact for verdict in found for name, fact in verdict.facts.items()}
        reasons = tuple(reason for verdict in found for reason in verdict.reasons)
        return Verdict(ok=not reasons, reasons=reasons, facts=facts)

    async def _report(self) -> None:
        """Write our own numbers beside the results, for the board of the pipeline."""
        port = self._settings.worker.port
        points = PointMaker(self._fleet)
        before: dict[Role, dict[str, float]] = {}
        host = f"{platform.node()}:{port}" if port else platform.node()
        while not self._stopping.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), REPORT_S)
            for runner in self.runners:
                numbers, lags = runner.metrics.snapshot(), runner.lags()
                if refused := refusals(numbers, before.get(runner.role, {})):
                    topic = self._settings.kafka.dead_letters
                    log.warning("%s: dead letters on %s: %s", runner.role, topic, refused)
                before[runner.role] = numbers
                since = runner.sink.stats.failing_since
                if since is not None and time.monotonic() - since > KEEP_S:
                    continue
                runner.sink.put(
                    points.pipeline_points(
                        host,
                        runner.role,
                        numbers,
                        at_ns=time.time_ns(),
                        lags=lags,
                        version=runner.metrics.version,
                        model_id=runner.metrics.model,
                    )
                )


def refusals(now: Mapping[str, float], before: Mapping[str, float]) -> str:
    """What was set aside between two snapshots of metrics, in words; empty where nothing was.

    >>> refusals({"dead_letters_bad_rate": 5.0, "dead_letters_no_samples": 1.0}, {})
    '5 bad_rate, 1 no_samples'
    """
    counts = {
        name.removeprefix(LETTERS): total - before.get(name, 0.0)
        for name, total in now.items()
        if name.startswith(LETTERS) and total > before.get(name, 0.0)
    }
    return ", ".join(f"{count:.0f} {reason}" for reason, count in counts.items())
