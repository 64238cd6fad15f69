"""A life replayed at 50 times its speed through Kafka: is it what the embedded run makes of it?

    python tests/replayed.py [--speed 50]

Takes three minutes at 50 times; part of `make soak`.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import services
from connectors.files import read
from embedded_truth import truth
from test_worker import FEMTO, assert_same
from worker_cases import Plant


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--speed", default="50")
    arguments = parser.parse_args()
    if not FEMTO.is_dir():
        sys.exit("recordings femto_bearing1_2 are not beside the project")
    with (
        tempfile.TemporaryDirectory() as folder,
        services.kafka() as kafka,
        services.influx() as influx,
    ):
        plant = Plant(kafka, influx, Path(folder))
        try:
            plant.start()
            record = Path(folder) / "sent.json"
            done = plant.run(
                "replay", str(FEMTO), "--speed", arguments.speed, "--resume", str(record),
                deadline_s=1200.0,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            plant.finish()
            assert_same(plant, truth(read([FEMTO]), plant.conf))
        finally:
            plant.close()
    said = f"FEMTO 1_2 at {arguments.speed} times its speed: the same windows, scores and alarms"
    print(said)  # noqa: T201  (what the script is for)


if __name__ == "__main__":
    main()
