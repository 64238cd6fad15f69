"""Transitions of all sensors in; cases, one open per asset, out.

The second stage of the worker around `CaseBook`. Transitions may come twice or late, from workers
that died between writing and checkpointing: the book drops what it has seen.
"""

from collections.abc import Mapping, Sequence

from pipeline.alarm_messages import case_to_json, transition_from_json
from pipeline.cases import Case, CaseBook
from pipeline.fleet import Fleet
from pipeline.points import PointMaker
from pipeline.records import (
    Header,
    key_of,
    name_of,
    read_body,
    read_header,
    unusable,
    write_record,
)
from pipeline.settings import Settings
from pipeline.state import pack, unpack
from pipeline.streaming.metrics import Metrics
from pipeline.streaming.stage import (
    Begun,
    Outcome,
    Outgoing,
    Partition,
    Received,
    Refused,
    States,
    StateWrite,
    dead_letter,
)


class CaseStage:
    """The cases of all assets of the partitions of one worker.

    Args:
        settings: All of them.
        fleet: What is known of the plant.
        metrics: Of this role.
    """

    def __init__(self, settings: Settings, fleet: Fleet, *, metrics: Metrics) -> None:
        self._settings = settings
        self._fleet = fleet
        self._metrics = metrics
        self._points = PointMaker(fleet)

    def assign(self, states: States, ends: Mapping[Partition, int]) -> None:
        """Begin anew with the partitions that are ours now; see `Stage`."""
        self._book = CaseBook(reopen_s=self._settings.delays.reopen_s)
        self._headers: dict[str, Header] = {}
        self._homes: dict[str, int] = {}
        self._touched: set[str] = set()
        for number, key in states.keys():  # noqa: SIM118  (not a mapping)
            kind, asset, _ = name_of(key)
            value = states.get(key)
            if kind != "case" or value is None:
                continue
            try:
                header, body = read_header(value), read_body(value)
                state = unpack(body) if body else None  # a rewind leaves nothing but the epoch
            except ValueError as error:
                raise unusable(key, error) from error
            topic = self._settings.kafka.transitions
            end = ends.get(Partition(topic, number))
            if end is not None and header.positions.get(topic, -1) >= end:
                # The topic was deleted and made anew: what is written next must win nevertheless.
                header = Header(epoch=header.epoch + 1)
            if state is not None:
                self._book.import_asset(asset, state)
            self._headers[asset] = header
            self._homes[asset] = number

    def begin(self, batch: Sequence[Received]) -> Begun:
        """Begin with messages, each partition's in its order; all is done at the end."""
        return Begun(lambda: self._take(batch), alone=True)

    def _take(self, batch: Sequence[Received]) -> Outcome:
        messages: list[Outgoing] = []
        changed: dict[str, Case] = {}
        for message in batch:
            try:
                transition = transition_from_json(message.value or b"")
            except ValueError as error:
                messages.append(self._letter(message, Refused("bad_transition", str(error))))
                continue
            if self._note(transition.asset, message):
                changed |= {case.case_id: case for case in self._book.add(transition)}
        topic = self._settings.kafka.alarms
        messages += [
            Outgoing(topic, case.case_id.encode(), case_to_json(case, self._fleet))
            for case in changed.values()
        ]
        points = [
            point
            for case in changed.values()
            for point in self._points.case_points(case, quarantined=self._quarantined)
        ]
        return Outcome(points, messages)

    def tick(self, elapsed_ns: int) -> Outcome:  # noqa: ARG002  (nothing happens by itself)
        """Cases change by transitions only."""
        return Outcome()

    def snapshot(self) -> list[StateWrite]:
        """State of every asset that has changed."""
        touched, self._touched = sorted(self._touched), set()
        return [
            StateWrite(
                self._homes[asset],
                key_of("case", asset),
                write_record(self._headers[asset], pack(self._book.export_asset(asset))),
            )
            for asset in touched
        ]

    def _note(self, asset: str, message: Received) -> bool:
        topic, number = message.partition
        header = self._headers.get(asset, Header())
        if message.offset <= header.positions.get(topic, -1):
            self._metrics.skipped.inc()
            return False
        positions = {**header.positions, topic: message.offset}
        self._headers[asset] = Header(positions=positions, epoch=header.epoch)
        self._homes[asset] = number
        self._touched.add(asset)
        return True

    def _quarantined(self, sensor_id: str) -> bool:
        accepted = self._settings.worker.unknown_sensors == "accept"
        return not accepted and self._fleet.lacks(sensor_id)

    def _letter(self, message: Received, refused: Refused) -> Outgoing:
        self._metrics.dead_letters.labels(refused.reason).inc()
        return dead_letter(self._settings.kafka.dead_letters, message, refused.reason, str(refused))
