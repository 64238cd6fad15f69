import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Who may import whom inside the project; the core imports inwards only.
CORE = {
    "messages": set(),
    "sensor_chunk_pb2": set(),
    "state": set(),
    "wire": {"messages", "sensor_chunk_pb2"},
    "timeline": {"messages"},
    "stretch": {"messages", "timeline"},
    "cutting": {"messages", "timeline", "stretch"},
    "windows": {"messages", "timeline", "stretch", "cutting"},
    "blocks": {"messages"},
    "indicators": {"messages", "blocks"},
    "signal_shape": {"messages", "blocks"},
    "health": {"messages", "signal_shape"},
    "running": set(),
    "tails": set(),
    "whitening": set(),
    "baseline": {"messages", "tails", "whitening"},
    "drift": {"messages", "baseline"},
    "persistence": {"messages"},
    "alarms": {"messages", "persistence"},
    "asked": {"messages", "alarms"},
    "ready": {"messages", "alarms", "drift", "running"},
    "case_fold": {"messages"},
    "cases": {"messages", "case_fold"},
    "wording": {"messages", "case_fold"},
    "arrival": {"messages"},
    "breaks": {"messages"},
    "pace": {"messages"},
    "gain": set(),
    "velocity": {"messages", "indicators"},
    "pictures": {"messages", "indicators"},
    "pins": {"messages"},
    "reference": {"messages", "running", "baseline", "drift"},
    "sensor": {
        "messages", "windows", "signal_shape", "health", "breaks", "velocity", "pictures", "pins",
        "running", "baseline", "drift", "reference", "alarms", "arrival", "pace", "gain",
        "asked", "ready",
    },
    "silence": {"messages", "arrival"},
    "monitor": {
        "messages", "signal_shape", "indicators", "asked", "ready", "sensor", "silence",
    },
    "careful": {"messages", "monitor"},
}  # fmt: skip
FORBIDDEN_CALLS = r"pickle\.(loads?|dumps?)\(|allow_pickle=True|weights_only=False|joblib"
FORBIDDEN_IN_CORE = {
    "os", "time", "datetime", "threading", "asyncio", "logging", "random", "socket", "pathlib",
    "subprocess", "io", "pickle",
}  # fmt: skip


# Rooms of the shells: who may import whom; what lies beside them (the core, its formats, settings)
# is open to all.
ROOMS = {
    "bench": {"simulation"},
    "services": set(),
    "streaming": {"services"},
    "report": set(),
    "serve": {"report", "streaming"},
    "replay": set(),
    "simulation": {"replay", "services"},
    "cli": {"bench", "replay", "report", "serve", "services", "simulation", "streaming"},
}
# Beside the rooms, these alone look into one, or join the core with files, Kafka and InfluxDB.
JOINTS = {"commands", "extent", "show", "vectors"}


def imports(path):
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def ours(path, package):
    """Modules and rooms of a package that a file imports."""
    pattern = re.compile(rf"{package}\.(\w+)")
    known = {p.stem for p in (ROOT / package).iterdir() if p.suffix == ".py" or p.is_dir()}
    hits = {m.group(1) for name in imports(path) if (m := pattern.match(name))}
    return hits & known


def test_the_core_imports_inwards_only():
    for name, allowed in CORE.items():
        path = ROOT / "pipeline" / f"{name}.py"
        assert ours(path, "pipeline") - {name} <= allowed, name
        assert not any(i.startswith(("connectors", "echo_model")) for i in imports(path)), name


def test_the_core_has_no_clock_file_thread_or_log():
    for name in CORE:
        tops = {i.split(".")[0] for i in imports(ROOT / "pipeline" / f"{name}.py")}
        assert not tops & FORBIDDEN_IN_CORE, name


def test_models_import_nothing_of_ours():
    for path in (ROOT / "echo_model").glob("*.py"):
        assert not any(i.startswith(("pipeline", "connectors")) for i in imports(path)), path


def test_connectors_know_messages_only():
    for path in (ROOT / "connectors").rglob("*.py"):
        assert ours(path, "pipeline") <= {"messages", "wire"}, path
        assert not any(i.startswith("echo_model") for i in imports(path)), path


def test_a_shell_looks_only_into_the_rooms_below_it():
    rooms = {p.parent.name for p in (ROOT / "pipeline").glob("*/__init__.py")}
    assert rooms == set(ROOMS)
    for room, below in ROOMS.items():
        for path in (ROOT / "pipeline" / room).glob("*.py"):
            assert ours(path, "pipeline") & rooms <= below | {room}, path


def test_beside_the_rooms_few_look_into_one_or_into_connectors():
    rooms = set(ROOMS)
    for path in (ROOT / "pipeline").glob("*.py"):
        joined = any(i.startswith("connectors") for i in imports(path))
        if joined or ours(path, "pipeline") & rooms:
            assert path.stem in JOINTS, path


def test_pages_and_benches_open_no_connector_but_their_feed():
    for room in ("bench", "report", "serve"):
        for path in (ROOT / "pipeline" / room).glob("*.py"):
            joined = any(i.startswith("connectors") for i in imports(path))
            assert not joined or (room, path.stem) == ("serve", "feed"), path


def test_nothing_executes_what_it_reads():
    for path in ROOT.glob("*/**/*.py"):
        if path.is_relative_to(ROOT / ".venv") or path.is_relative_to(ROOT / "tests"):
            continue
        text = path.read_text(encoding="utf-8")
        assert not re.search(FORBIDDEN_CALLS, text), path
