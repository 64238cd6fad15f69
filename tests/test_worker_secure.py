"""Worker, replay and topics on a Kafka that encrypts and asks who we are."""

import pytest

from connectors.files.write import write_recordings
from handover_cases import one_line_of
from pipeline.simulation import simulate
from worker_cases import Plant, wait_for

pytestmark = pytest.mark.long

CHUNKS = 24


class SecurePlant(Plant):
    """A plant whose topics are made by the command line, and which is known by its certificate."""

    def secured(self, **settings):
        for name, value in settings.items():
            self.environment[f"ECHOWATCH_KAFKA__{name}"] = str(value)


def access_of(kafka, folder):
    """Settings per way to log in."""
    password = folder / "kafka.password"
    password.write_text(kafka.password, encoding="utf-8")
    login = {"USERNAME": kafka.username, "PASSWORD_FILE": password, "CA_FILE": kafka.ca_file}
    login |= {"SECURITY": "SASL_SSL", "BOOTSTRAP": kafka.sasl_ssl_bootstrap}
    return {
        "SCRAM-SHA-256": login | {"MECHANISM": "SCRAM-SHA-256"},
        "SCRAM-SHA-512": login | {"MECHANISM": "SCRAM-SHA-512"},
        "certificate": {
            "SECURITY": "SSL",
            "BOOTSTRAP": kafka.ssl_bootstrap,
            "CA_FILE": kafka.ca_file,
            "CERT_FILE": kafka.cert_file,
            "KEY_FILE": kafka.key_file,
        },
    }


@pytest.fixture
def plant(secure_kafka, influx, tmp_path):
    made = SecurePlant(secure_kafka, influx, tmp_path, partitions=2)
    yield made
    made.close()


@pytest.mark.parametrize("way", ["SCRAM-SHA-256", "SCRAM-SHA-512", "certificate"])
def test_topics_replay_and_worker_do_their_work_over_tls(plant, way, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the replay keeps its notes where it runs
    plant.secured(**access_of(plant.kafka, tmp_path)[way])
    topic = f"{plant.name}.{way.lower()}"
    plant.environment["ECHOWATCH_KAFKA__SIGNALS"] = topic
    made = plant.run("topics", "create")
    assert made.returncode == 0, made.stderr
    assert plant.run("topics", "check").returncode == 0
    recordings = tmp_path / "recordings"
    chunks = list(simulate.plant(7, sensors=2, hours=0.1).chunks())[:CHUNKS]
    write_recordings(chunks, recordings)
    worker = plant.start()
    sent = plant.run("replay", str(recordings), "--to", "kafka", "--speed", "max")
    assert sent.returncode == 0, sent.stderr
    wait_for(worker.ready, "the worker at work")
    wait_for(lambda: plant.done("signals", topic), "all signals")
    assert sum(plant.ends(topic).values()) > 0
    assert plant.points("sensor_health")
    assert worker.end() == 0
    assert plant.kafka.password not in worker.text + sent.stderr + made.stderr


def test_who_may_not_log_in_is_told_in_one_line_by_all(plant, tmp_path):
    wrong = tmp_path / "wrong.password"
    wrong.write_text("not-the-password", encoding="utf-8")
    ways = access_of(plant.kafka, tmp_path)
    plant.secured(**ways["SCRAM-SHA-512"] | {"PASSWORD_FILE": wrong})
    worker = plant.start()
    stranger = {f"ECHOWATCH_KAFKA__{k}": str(v) for k, v in ways["certificate"].items()}
    del stranger["ECHOWATCH_KAFKA__CA_FILE"]
    plant.environment.pop("ECHOWATCH_KAFKA__CA_FILE")
    wary = plant.start(**stranger)
    assert "certificate verify failed" in one_line_of(wary.process, wary.log)
    line = one_line_of(worker.process, worker.log)
    assert plant.kafka.username in line
    assert "not-the-password" not in worker.text
    plant.secured(CA_FILE=plant.kafka.ca_file)
    tool = plant.run("topics", "check")
    assert tool.returncode == 1
    assert plant.kafka.username in tool.stderr
    assert "Traceback" not in tool.stderr
