"""Workers, Kafka and InfluxDB hurt amid a stream: what they leave behind is as if nothing were."""

import soak


def test_no_disturbance_changes_what_a_plant_gives(kafka_own, influx_own, tmp_path):
    run = soak.Soak(
        soak.SHORT, seed=11, kafka=kafka_own, influx=influx_own, folder=tmp_path, say=print
    )
    assert run.run() == []
    assert set(run.done) == set(soak.SHORT.steps)
