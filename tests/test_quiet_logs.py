import asyncio
import io
import logging
import re
import threading
from threading import Thread

import pytest
from rich.console import Console

from connectors.influx import InfluxWriter
from pipeline.streaming.quiet_logs import (
    CLIENTS,
    EVERY_S,
    TEMPLATES,
    OneLine,
    Repeats,
    configure,
    tell_of_threads,
)


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def heard():
    """Logs as a worker would; gives a function that returns the lines so far."""
    root = logging.getLogger()
    before = root.level, list(root.handlers), {n: logging.getLogger(n).level for n in CLIENTS}
    out = io.StringIO()
    console = Console(file=out, width=40)
    configure("INFO", console, secrets=["", "hunter2", "hunter2-longer"])
    yield lambda: out.getvalue().splitlines()
    root.setLevel(before[0])
    for handler in [h for h in root.handlers if h not in before[1]]:
        root.removeHandler(handler)
    for name, level in before[2].items():
        logging.getLogger(name).setLevel(level)


def record(name, template, *args):
    return logging.LogRecord(name, logging.ERROR, "f.py", 1, template, args, None)


def passed(repeats, name, template, *args):
    """The text that passes, None where it is held back."""
    made = record(name, template, *args)
    return made.getMessage() if repeats.filter(made) else None


def test_what_the_writers_of_both_roles_say_is_one_line(heard):
    for _ in range(2):
        InfluxWriter("http://127.0.0.1:9", "token", "org", "bucket", timeout_s=1.0).check()
    (line,) = heard()
    assert "WARNING connectors.influx: " in line
    assert "cannot be reached, will keep trying" in line


def test_a_storm_becomes_one_line_in_ten_seconds_that_counts_the_rest():
    clock = Clock()
    repeats = Repeats(clock=clock)
    lines = []
    for number in range(35 * 25):
        clock.now = number / 35
        text = passed(repeats, "aiokafka.conn", "node %s: 100 %% down", number)
        lines += [text] if text else []
    assert lines == [
        "node 0: 100 % down",
        "node 350: 100 % down (+349 times)",
        "node 700: 100 % down (+349 times)",
    ]


def test_other_complaints_and_other_loggers_are_heard_at_once():
    repeats = Repeats(clock=Clock())
    assert passed(repeats, "aiokafka.conn", "a %s", 1)
    assert passed(repeats, "aiokafka.conn", "b %s", 1)
    assert passed(repeats, "aiokafka.client", "a %s", 1)
    assert not passed(repeats, "aiokafka.conn", "a %s", 2)


@pytest.mark.parametrize("name", ["pipeline.streaming.worker", "kafkaesque", "root"])
def test_our_own_lines_are_never_held_back(name):
    repeats = Repeats(clock=Clock())
    assert all(passed(repeats, name, "same") == "same" for _ in range(5))


def test_two_handlers_say_the_same():
    clock = Clock()
    first, second = Repeats(clock=clock), Repeats(clock=clock)
    for at in (0.0, 1.0, EVERY_S, EVERY_S + 1.0):
        clock.now = at
        made = record("kafka", "down")
        texts = [made.getMessage() for each in (first, second) if each.filter(made)]
        assert texts == {0.0: ["down"] * 2, EVERY_S: ["down (+1 times)"] * 2}.get(at, [])


def test_memory_is_bounded_when_every_text_is_new():
    repeats = Repeats(clock=Clock())
    for number in range(3 * TEMPLATES):
        assert passed(repeats, "faust", f"text {number}")
    assert len(repeats._seen) == TEMPLATES
    assert not passed(repeats, "faust", f"text {3 * TEMPLATES - 1}")


def test_threads_pass_one_of_a_storm():
    repeats, found = Repeats(clock=Clock()), []

    def storm():
        found.extend(filter(None, (passed(repeats, "kafka", "down") for _ in range(500))))

    threads = [Thread(target=storm) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["down"]


def test_a_child_logger_of_a_client_is_quiet_on_the_real_handler(heard):
    for number in range(50):
        logging.getLogger("aiokafka.consumer.group_coordinator").error("lost %s", number)
    (line,) = heard()
    assert line.endswith("ERROR aiokafka.consumer.group_coordinator: lost 0")


def test_a_record_is_one_unwrapped_line_in_utc(heard):
    logging.getLogger("pipeline.streaming.worker").info("assigned [bold]%s[/bold] %s", 3, "x" * 100)
    (line,) = heard()
    shape = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO pipeline\.streaming\.worker: "
    assert re.fullmatch(shape + r"assigned \[bold\]3\[/bold\] x{100}", line)


def test_time_is_utc_to_the_millisecond():
    made = record("a", "b")
    made.created = 1_700_000_000.25
    assert OneLine().format(made) == "2023-11-14T22:13:20.250Z ERROR a: b"


@pytest.mark.parametrize("forged", ["x\ny", "x\r\ny", "x\x1b[2Jy", "x\u2028y"])
def test_no_message_forges_a_line_or_moves_the_cursor(heard, forged):
    logging.getLogger("pipeline").warning("sensor %s", forged)
    (line,) = heard()
    assert line.isprintable()
    assert "sensor x\\" in line


def test_an_error_tells_its_calls_and_its_cause_on_the_same_line(heard):
    def inner():
        raise KeyError("rate")

    try:
        try:
            inner()
        except KeyError as error:
            raise RuntimeError("no sensor") from error
    except RuntimeError:
        logging.getLogger("pipeline").exception("crashed")
    (line,) = heard()
    assert re.search(
        r"crashed \| RuntimeError: no sensor \[test_quiet_logs\.py:\d+ test_\w+\] because of "
        r"KeyError: 'rate' \[test_quiet_logs\.py:\d+ inner < test_quiet_logs\.py:\d+ test_\w+\]$",
        line,
    )


def test_the_errors_of_a_group_are_all_told(heard):
    async def fail(text):
        raise ValueError(text)

    async def run_both():
        async with asyncio.TaskGroup() as group:
            group.create_task(fail("first"))
            group.create_task(fail("second"))

    try:
        asyncio.run(run_both())
    except ExceptionGroup:
        logging.getLogger("pipeline").exception("crashed")
    (line,) = heard()
    assert "ValueError: first" in line
    assert "ValueError: second" in line


def test_a_secret_is_never_shown_wherever_it_stands(heard):
    log = logging.getLogger("aiokafka.conn")
    log.error("login of %s with %s", "alice", "hunter2")
    log.error("connect hunter2-longer@host")
    try:
        int("hunter2")
    except ValueError:
        log.exception("failed")
    assert len(heard()) == 3
    assert not any("hunter2" in line or "longer" in line for line in heard())
    assert sum("***" in line for line in heard()) == 3


def test_clients_are_heard_from_warning_on_and_we_from_the_level(heard):
    logging.getLogger("faust.app").info("banner")
    logging.getLogger("faust.app").warning("rebalance")
    logging.getLogger("pipeline").info("ours")
    logging.getLogger("pipeline").debug("detail")
    assert [line.split(": ")[-1] for line in heard()] == ["rebalance", "ours"]


def test_a_debug_level_hears_the_clients_too(heard):
    out = io.StringIO()
    configure("DEBUG", Console(file=out))
    logging.getLogger("faust.app").debug("detail")
    assert out.getvalue().endswith("DEBUG faust.app: detail\n")
    assert heard() == []


def test_a_second_configuration_replaces_the_first(heard):
    out = io.StringIO()
    configure("INFO", Console(file=out))
    logging.getLogger("pipeline").info("once")
    assert len(out.getvalue().splitlines()) == 1
    assert heard() == []


def test_a_thread_that_fails_is_told_of_in_one_line_and_one_that_was_cancelled_is_not(
    heard, monkeypatch, capfd
):
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    tell_of_threads()

    def fail(error):
        raise error

    for error in (asyncio.CancelledError(), KeyError("a mistake of ours")):
        thread = Thread(target=fail, args=(error,), name="reader")
        thread.start()
        thread.join()
    (line,) = heard()
    assert "reader has ended" in line
    assert "KeyError: 'a mistake of ours'" in line
    assert not capfd.readouterr().err
