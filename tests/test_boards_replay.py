"""A live run and a replay of the same signals: the boards show the same."""

import time
from contextlib import ExitStack

import pytest

import board_replay
import services
from board_cases import NAMES, board, board_checks
from board_questions import Asked, hours_of, sources_of

pytestmark = pytest.mark.stack

RAW, HOURS = "echowatch-influx", "echowatch-influx-1h"
TOLERANCE = 1e-5
# What has no answer in this plant: no case is older than its history, no sensor reaches 16 kHz.
QUIET = {"alarm_kpi": {"Chattering A", "Stale A"}, "asset": {"Octave levels J"}}


@pytest.fixture(scope="module")
def worked():
    """Run -> begin and end of its worker's work, ms."""
    return {}


@pytest.fixture(scope="module")
def runs(kafka, influx, tmp_path_factory, worked):
    """Boards of the live run, and of its replay."""
    folder = tmp_path_factory.mktemp("runs")
    story = board_replay.story(folder)
    with ExitStack() as closing:
        heard = []
        for tell in (board_replay.live, board_replay.replayed):
            run = board_replay.Run(kafka, influx, folder, story)
            closing.callback(run.plant.close)
            heard.append((run, tell))
        for run, tell in heard:
            run.hear(tell)
        times = (story.life.start_ns // 10**6 - 600_000, time.time_ns() // 10**6)
        worked.update(zip(("live", "replay"), (run.worked for run, _ in heard), strict=True))
        live, again = (
            (run.bucket, closing.enter_context(hours_of(influx, run.bucket, *times)))
            for run, _ in heard
        )
        grafana = closing.enter_context(services.grafana(influx, live[0]))
        uids = ("replayed", "replayed-1h")
        closing.enter_context(sources_of(grafana, influx, dict(zip(uids, again, strict=True))))
        asset = "mill/wet_end/pump3"
        yield {
            name: Asked(grafana, sources, times, asset, f"{asset}/de")
            for name, sources in (("live", (RAW, HOURS)), ("replay", uids))
        }


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("run", ["live", "replay"])
def test_every_question_is_answered_by_the_plant(runs, worked, run, name):
    asked = runs[run]
    if name == "pipeline":  # counters need two steps of time
        asked = Asked(asked.grafana, asked.sources, worked[run], asked.asset, asked.sensor)
    assert set(asked.unanswered(name, board(name))) == {
        f"{where}: nothing" for where in QUIET.get(name, ())
    }


def shown(frames):
    """Place of a value in an answer -> value; what names the source is left out."""
    return {
        (field["name"], str(field.get("labels")), row, time): value
        for frame in frames
        for field, column in zip(frame["schema"]["fields"], frame["data"]["values"], strict=True)
        for row, (time, value) in enumerate(zip(frame["data"]["values"][0], column, strict=True))
    }


def same(one, other):
    """Whether two values are; how windows fall into batches moves the last digits of a score."""
    numbers = all(isinstance(value, int | float) for value in (one, other))
    return one == (pytest.approx(other, rel=TOLERANCE, abs=TOLERANCE) if numbers else other)


@pytest.mark.parametrize("name", NAMES)
def test_a_replay_draws_what_the_live_run_drew(runs, name):
    different = {}
    for one, target in board_checks.targets_of(board(name)):
        # How the worker itself fares is another matter each time.
        if " FROM pipeline" in target["query"]:
            continue
        live, again = (shown(run.frames(name, one, target)) for run in runs.values())
        found = [
            (place, live.get(place), again.get(place))
            for place in sorted(live.keys() | again.keys(), key=str)
            if not same(live.get(place), again.get(place))
        ]
        if found:
            different[f"{one['title']} {target['refId']}"] = found[:3]
    assert different == {}
