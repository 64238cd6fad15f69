"""Records in, tables and sentences on a terminal out; or the same as JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from connectors.files import Description
from echo_model.checkpoints import CONFIGS, SHIPPED
from pipeline.messages import NS_PER_S, Severity

COLOURS = {"ALARM": "bold red", "ALERT": "red", "ADVISORY": "yellow", "OK": "green"}


def show_outcome(facts: Mapping[str, Any], console: Console) -> None:
    """What a run has found: cases worst first, sensor faults, where the report is."""
    state = "" if facts["finished"] else " (interrupted: give the same command to go on)"
    console.print(
        f"{facts['windows']} windows of {facts['sensors']} sensors in {facts['seconds']:.1f} s, "
        f"profile {facts['profile']}, model {facts['model_id']}{state}",
        markup=False,
    )
    if not facts["trained"]:
        console.print("the encoder is untrained (fixed seed): scores show change, no learnt sense")
    for case in facts["cases"]:
        severity = Severity(case["severity"]).name
        console.print(
            f"[{COLOURS[severity]}]{severity:8}[/] {escape(case['sentence'])}", soft_wrap=True
        )
    if not facts["cases"]:
        console.print("[green]OK[/]       no machine has left its baseline")
    for line in facts["sensor_faults"]:
        console.print(f"[magenta]SENSOR[/]   {escape(line)}", soft_wrap=True)
    learning = facts["still_learning"]
    if learning:
        console.print(
            f"{learning} of {facts['sensors']} sensors are still learning: "
            "give more data, or --profile accelerated or short",
        )
    console.print(f"report: {facts['report']}", markup=False, soft_wrap=True)


def show_models(console: Console, *, as_json: bool) -> None:
    """The encoders that have a name."""
    rows = [
        {
            "name": name,
            "embed_dim": config.embed_dim,
            "depth": config.depth,
            "heads": config.num_heads,
            "weights": "trained, shipped" if name in SHIPPED else "untrained, fixed seed",
        }
        for name, config in CONFIGS.items()
    ]
    if as_json:
        console.print_json(data=rows)
        return
    table = Table("name", "width D", "layers", "heads", "weights")
    for row in rows:
        table.add_row(*map(str, row.values()))
    console.print(table)
    console.print("or a checkpoint file in the published layout (.safetensors, .pth)")


def show_descriptions(found: Sequence[Description], console: Console, *, as_json: bool) -> None:
    """What a reader sees in files or folders."""
    if as_json:
        console.print(json.dumps([_described(d) for d in found]), markup=False, soft_wrap=True)
        return
    for description in found:
        span = description.duration_s
        console.print(
            f"{description.path}: {description.kind}, {description.n_captures} captures, "
            f"{'unknown length' if span is None else _duration(span)}",
            markup=False,
        )
        table = Table("sensor", "rate Hz", "unit", "samples", "starts", "time from")
        for channel in description.channels:
            table.add_row(
                escape(channel.sensor_id),
                "?" if channel.sample_rate_hz is None else f"{channel.sample_rate_hz:g}",
                escape(channel.unit),
                "?" if channel.n_samples is None else str(channel.n_samples),
                "?" if channel.start_ns is None else _utc(channel.start_ns),
                channel.time_source,
            )
        console.print(table)
        for label, count in description.labels:
            console.print(f"label {label}: {count}", markup=False)
        for note in description.notes:
            console.print(f"note: {note}", markup=False)


def _described(description: Description) -> dict[str, Any]:
    return {**asdict(description), "path": str(description.path)}


def _utc(at_ns: int) -> str:
    return datetime.fromtimestamp(at_ns / NS_PER_S, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
