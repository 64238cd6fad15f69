"""The generator of the boards, and the questions of its panels, for the tests of boards."""

import copy
import json
import sys
from pathlib import Path

GRAFANA = Path(__file__).resolve().parents[1] / "grafana"
sys.path.insert(0, str(GRAFANA))

import board_checks  # noqa: E402  (found through the line above)
import board_parts  # noqa: E402
import boards  # noqa: E402

__all__ = ["board_checks", "board_parts", "boards"]

NAMES = tuple(boards.boards())
FOLDER = boards.DASHBOARDS


def board(name):
    """A board as its file has it."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def changed(name, change):
    """A copy of a board, changed by `change`."""
    other = copy.deepcopy(board(name))
    change(other)
    return other


def problems(name, content):
    """What the checker says of a board."""
    return board_checks.problems(name, content, json.dumps(content))


def panels(content):
    """Panels that show something."""
    return [panel for panel in board_checks.panels_of(content) if panel["type"] != "row"]


def panel(content, title):
    (found,) = [one for one in panels(content) if one["title"] == title]
    return found
