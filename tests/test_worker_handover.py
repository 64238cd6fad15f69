"""Workers, services and topics that come and go: what is handed over, how fast, and what is said.

Times are printed (`pytest -s`); they are asserted with three times the room that is promised, for
the machine is shared.
"""

import signal
import socket
import time

import pytest

from conftest import SESSION_S
from handover_cases import ROUND, SLACK, Stream, one_line_of, partitions, since
from pipeline.settings import load
from worker_cases import wait_for


def test_partitions_move_at_once_where_a_worker_is_told_to_end_and_soon_where_it_dies(plant):
    stream = Stream(plant)
    first, second = plant.start(), plant.start()
    every = plant.partitions
    wait_for(lambda: partitions(first) == partitions(second) == every // 2, "a fair share")
    stream.send(20)
    plant.finish()
    stream.send(5)
    began_s = time.monotonic()
    first.process.send_signal(signal.SIGTERM)
    wait_for(lambda: partitions(second) == every, "the partitions of the ended worker")
    assert since(began_s, "SIGTERM to the other worker's partitions") <= SLACK * 3.0
    assert first.process.wait(30) == 0
    plant.finish()
    third = plant.start()
    wait_for(lambda: partitions(second) == partitions(third) == every // 2, "a fair share")
    stream.send(5)
    began_s = time.monotonic()
    second.end(signal.SIGKILL)
    wait_for(lambda: partitions(third) == every, "the partitions of the dead worker")
    assert since(began_s, "SIGKILL to the other worker's partitions") <= SESSION_S + SLACK * 3.0
    stream.assert_arrived()


def test_topics_are_awaited_and_those_that_come_later_are_read(plant):
    name = plant.name
    late = {"ECHOWATCH_KAFKA__SIGNALS": f"{name}.first,{name}.listed"}
    late["ECHOWATCH_KAFKA__SIGNALS_PATTERN"] = rf"{name}\.more.*"
    worker = plant.start(**late)
    wait_for(lambda: "waiting for topic" in worker.get("/ready")[1], "the reason on /ready")
    status, body = worker.get("/ready")
    assert status == 503
    assert f"{name}.first" in body
    assert worker.get("/live")[0] == 200
    stream = Stream(plant)
    for rounds, topic in ((20, "first"), (1, "listed"), (1, "more1")):
        plant.environment["ECHOWATCH_KAFKA__SIGNALS"] = f"{name}.{topic}"
        plant.conf = load(plant.environment)
        before = worker.metric("echowatch_windows_total")
        began_s = time.monotonic()
        plant.admin.create_topics(
            {f"{name}.{topic}": {"num_partitions": plant.partitions, "replication_factor": 1}}
        )
        stream.send(rounds)
        wait_for(
            lambda: worker.metric("echowatch_windows_total") >= before + rounds * ROUND,  # noqa: B023
            f"windows of {topic}",
        )
        assert since(began_s, f"topic {topic} made to all its windows") <= SLACK * 10.0
    stream.assert_arrived()


def test_a_worker_waits_for_kafka_and_goes_on_after_it_was_away(plant, broker):
    stream = Stream(plant)
    broker.stop()
    worker = plant.start()
    wait_for(lambda: "waiting for Kafka" in worker.get("/ready")[1], "the reason on /ready")
    assert worker.get("/ready")[0] == 503
    broker.start()
    wait_for(worker.ready, "the worker at work")
    stream.send(20)
    plant.finish()
    done = worker.metric("echowatch_windows_total")
    for away in (broker.stop, broker.kill):
        away()
        wait_for(lambda: "Kafka is silent" in worker.get("/ready")[1], "the outage on /ready")
        broker.start()
        began_s = time.monotonic()
        stream.send()
        done += ROUND
        wait_for(lambda: worker.metric("echowatch_windows_total") >= done, "results")  # noqa: B023
        assert since(began_s, "Kafka back to the first results") <= SLACK * 5.0
        wait_for(worker.ready, "the worker ready again")
    assert worker.process.poll() is None
    stream.assert_arrived()


@pytest.mark.long
def test_kafka_may_go_away_while_partitions_move(plant, broker):
    stream = Stream(plant)
    first, second, every = plant.start(), plant.start(), plant.partitions
    wait_for(lambda: partitions(first) == partitions(second) == every // 2, "a fair share")
    stream.send(20)
    for moment_s in (0.0, 0.2, 0.4, 0.8):  # a hand-over takes about a second
        stream.send(2)
        first.process.send_signal(signal.SIGTERM)
        time.sleep(moment_s)
        broker.kill()
        broker.start()
        began_s = time.monotonic()
        assert first.process.wait(30) == 0
        wait_for(lambda: partitions(second) == every, "the partitions of the ended worker")  # noqa: B023
        since(began_s, f"Kafka killed {moment_s} s after SIGTERM, back to all partitions")
        first, second = second, plant.start()
        wait_for(lambda: partitions(first) < every, "a rebalance", every_s=0.05)  # noqa: B023
        time.sleep(moment_s)
        broker.kill()
        broker.start()
        began_s = time.monotonic()
        wait_for(lambda: partitions(first) == partitions(second) == every // 2, "a fair share")  # noqa: B023
        since(began_s, f"Kafka killed {moment_s} s into a rebalance, back to a fair share")
    stream.assert_arrived()


@pytest.mark.long
def test_influxdb_away_costs_no_result_no_memory_and_no_partition(plant, store):
    stream, cap = Stream(plant), 500
    store.stop()
    worker = plant.start(
        ECHOWATCH_WORKER__PENDING_MESSAGES=str(cap), ECHOWATCH_WORKER__WATCHDOG_S="8"
    )
    wait_for(lambda: "InfluxDB" in worker.get("/ready")[1], "the reason on /ready")
    assert worker.get("/ready")[0] == 503
    store.start()
    wait_for(worker.ready, "the worker at work")
    stream.send(20)
    plant.finish()
    joined = worker.text.count("are ours")
    store.stop()
    stream.send(160)
    queue = []
    until_s = time.monotonic() + 20.0  # longer than a session, and than the watchdog's patience
    while time.monotonic() < until_s:
        queue.append(worker.metric("echowatch_queue_messages", role="signals"))
        assert worker.process.poll() is None
        time.sleep(0.25)
    assert max(queue) == queue[-1] == cap
    assert worker.text.count("are ours") == joined
    began_s = time.monotonic()
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(240) == 0
    assert since(began_s, "SIGTERM to the end without InfluxDB") <= SLACK * 10.0
    assert "will be done again" in worker.text
    store.start()
    plant.start()
    stream.assert_arrived()


def test_what_waiting_would_not_mend_ends_the_start_in_one_line(plant, tmp_path):
    wrong = tmp_path / "wrong.token"
    wrong.write_text("not-the-token", encoding="utf-8")
    empty = tmp_path / "empty.token"
    empty.touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        started = {
            "401": plant.start(ECHOWATCH_INFLUX__TOKEN_FILE=str(wrong)),
            "empty.token is empty": plant.start(ECHOWATCH_INFLUX__TOKEN_FILE=str(empty)),
            port: plant.start("--port", port),
            "PLAINTEXT to kafka.plant:9092": plant.start(
                ECHOWATCH_KAFKA__BOOTSTRAP="kafka.plant:9092"
            ),
        }
        del plant.environment["ECHOWATCH_INFLUX__TOKEN_FILE"]
        started["no token for InfluxDB"] = plant.start()
        lines = {word: one_line_of(w.process, w.log) for word, w in started.items()}
    assert all(word in line for word, line in lines.items()), lines
    assert not plant.committed("signals", plant.conf.kafka.signals[0])


@pytest.mark.long
def test_of_two_workers_with_one_name_one_ends_and_says_why(plant):
    plant.environment["ECHOWATCH_WORKER__INSTANCE_ID"] = "hall-3"
    pair = [plant.start(role="cases")]
    wait_for(pair[0].ready, "the first one")
    pair.append(plant.start(role="cases"))
    newcomer = pair[1]
    wait_for(lambda: newcomer.process.poll() is not None, "the end of the newcomer", 240)
    assert "instance id 'hall-3'" in one_line_of(newcomer.process, newcomer.log)
    assert pair[0].end() == 0


@pytest.mark.long
def test_a_worker_that_waits_for_its_group_ends_when_told_to(plant):
    plant.environment["ECHOWATCH_WORKER__INSTANCE_ID"] = "hall-3"
    pair = [plant.start(role="cases") for _ in range(2)]  # Kafka lets one of them wait for ever
    wait_for(lambda: all("given back" in w.text for w in pair), "both at the door", 240)
    began_s = time.monotonic()
    for worker in pair:
        worker.process.send_signal(signal.SIGTERM)
    assert [w.process.wait(30) for w in pair] == [0, 0]
    assert since(began_s, "SIGTERM to the end of a worker without partitions") <= SLACK * 10.0
