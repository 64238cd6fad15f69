"""The boards of this folder in, Grafana's JSON files out; or what is wrong with them.

python grafana/boards.py write [--snapshots URL] [--to FOLDER]
python grafana/boards.py check
"""
# ruff: noqa: INP001, T201  (a script beside the JSON that it writes, for a person's terminal)

import argparse
import json
import sys
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER), str(FOLDER.parent)]

from board_alarm_kpi import alarm_kpi  # noqa: E402  (found through the line above)
from board_asset import asset  # noqa: E402
from board_checks import problems  # noqa: E402
from board_fleet import fleet  # noqa: E402
from board_frame import SNAPSHOTS  # noqa: E402
from board_parts import Json  # noqa: E402
from board_pipeline import pipeline  # noqa: E402
from board_sensor_health import sensor_health  # noqa: E402

DASHBOARDS: Final = FOLDER / "dashboards"


def boards(snapshots: str = SNAPSHOTS) -> dict[str, Json]:
    """Name of the file -> board.

    Args:
        snapshots: Address of `echowatch serve`, as the browser sees it.
    """
    made = {
        "fleet": fleet,
        "asset": asset,
        "sensor_health": sensor_health,
        "pipeline": pipeline,
        "alarm_kpi": alarm_kpi,
    }
    return {name: make(snapshots) for name, make in made.items()}


def text_of(board: Json) -> str:
    """A board as its file has it."""
    return json.dumps(board, indent=1, ensure_ascii=False) + "\n"


def write(folder: Path, snapshots: str) -> list[Path]:
    """Write every board."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, board in boards(snapshots).items():
        file = folder / f"{name}.json"
        file.write_text(text_of(board), encoding="utf-8")
        written.append(file)
    return written


def wrong(folder: Path, snapshots: str = SNAPSHOTS) -> list[str]:
    """What is wrong with the files of a folder, each in words."""
    found = []
    for name, board in boards(snapshots).items():
        file = folder / f"{name}.json"
        text = file.read_text(encoding="utf-8") if file.exists() else ""
        if text != text_of(board):
            found.append(f"{file.name} is not what this would write: run it with `write`")
        try:
            read = json.loads(text)
        except ValueError as error:
            found.append(f"{file.name} is no JSON: {error}")
        else:
            found += [f"{file.name}: {problem}" for problem in problems(name, read, text)]
    return found


def main() -> int:
    """Write or check; 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    writes = verbs.add_parser("write", help="write the JSON files")
    checks = verbs.add_parser("check", help="compare files, generator and the schema")
    for verb in (writes, checks):
        verb.add_argument("--to", type=Path, default=DASHBOARDS, help="folder of the JSON files")
        verb.add_argument("--snapshots", default=SNAPSHOTS, help="address of `echowatch serve`")
    asked = parser.parse_args()
    if asked.verb == "write":
        for file in write(asked.to, asked.snapshots):
            print(file)
    found = wrong(asked.to, asked.snapshots)
    for problem in found:
        print(problem, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
