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
    pattern = re.compile(rf"{package}\.(\w+)")
    modules = {p.stem for p in (ROOT / package).glob("*.py")} | {"bench", "files"}
    hits = {m.group(1) for name in imports(path) if (m := pattern.match(name))}
    return hits & modules


def test_the_core_imports_inwards_only():
    for name, allowed in CORE.items():
        path = ROOT / "pipeline" / f"{name}.py"
        if path.exists():
            assert ours(path, "pipeline") - {name} <= allowed, name
            assert not any(i.startswith(("connectors", "echo_model")) for i in imports(path)), name


def test_the_core_has_no_clock_file_thread_or_log():
    for name in CORE:
        path = ROOT / "pipeline" / f"{name}.py"
        if path.exists():
            tops = {i.split(".")[0] for i in imports(path)}
            assert not tops & FORBIDDEN_IN_CORE, name


def test_models_import_nothing_of_ours():
    for path in (ROOT / "echo_model").glob("*.py"):
        assert not any(i.startswith(("pipeline", "connectors")) for i in imports(path)), path


def test_connectors_know_messages_only():
    for path in (ROOT / "connectors").rglob("*.py"):
        assert ours(path, "pipeline") <= {"messages", "wire"}, path
        assert not any(i.startswith("echo_model") for i in imports(path)), path


def test_only_the_command_line_joins_connectors_and_pipeline():
    joined = [p.stem for p in (ROOT / "pipeline").glob("*.py") if any(
        i.startswith("connectors") for i in imports(p))]  # fmt: skip
    assert set(joined) <= {
        "cli", "cli_alarms", "cli_kafka", "cli_options", "cli_replay", "commands", "extent",
        "kafka_settings", "replay", "rewind", "show", "vectors", "worker", "role_runner",
        "faust_role", "influx_init", "influx_settings", "influx_status", "topic_watch", "lag",
        "baselines", "cli_baselines", "cli_influx", "live_alarms", "serve_feed",
        "simulate_live",
    }  # fmt: skip


def test_only_the_command_line_starts_a_bench():
    users = {p.stem for p in (ROOT / "pipeline").glob("*.py") if any(
        i.startswith("pipeline.bench") for i in imports(p))}  # fmt: skip
    assert users <= {"cli_bench_embeddings", "cli_bench_engine"}


def test_nothing_executes_what_it_reads():
    for path in ROOT.glob("*/**/*.py"):
        if path.is_relative_to(ROOT / ".venv") or path.is_relative_to(ROOT / "tests"):
            continue
        text = path.read_text(encoding="utf-8")
        assert not re.search(FORBIDDEN_CALLS, text), path
