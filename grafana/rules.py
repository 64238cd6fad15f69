"""The table of alert rules in, Grafana's provisioning file of them out, and what is wrong in it.

`python grafana/rules.py write` writes provisioning/alerting/rules.yaml, `check` says whether it is
what would be written and whether every query names what the schema has.
"""

# ruff: noqa: INP001, T201  (a script beside the file that it writes, for a person's terminal)

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]

from rule_table import KEPT, RULES, Rule  # noqa: E402

from pipeline.point_schema import SCHEMA  # noqa: E402  (found through the line above)

FILE = Path(__file__).with_name("provisioning") / "alerting" / "rules.yaml"
DATASOURCE = "echowatch-influx"
RUNBOOKS = "docs/runbooks.md"
"""Grafana takes no variable of the environment in a rule: the message has the whole address."""
INTERVALS = {"machines": "1m", "sensors": "1m", "pipeline": "30s", "watchdog": "1m"}
KEEP = "${ECHOWATCH_GRAFANA_KEEP}"
HEAD = """\
# Written by `python grafana/rules.py write` from grafana/rule_table.py: change that.
#
# ECHOWATCH_GRAFANA_KEEP says what becomes of a rule while the store does not answer: KeepLast from
# Grafana 10.4 on, so that a machine in alarm stays in alarm. Grafana 10.0 has no such word, but OK:
# what fires then resolves after two turns, and the message says that its data are gone.
#
# Where an alarm is to outlast its condition, the query looks back, for Grafana has keep_firing_for
# only since version 12. An alarm of the stream has that delay (off_delay_s) already.
"""


def document(rules: Sequence[Rule] = RULES) -> dict[str, Any]:
    """What the file says, as values of YAML."""
    groups = {name: [rule for rule in rules if rule.group == name] for name in INTERVALS}
    return {
        "apiVersion": 1,
        "groups": [
            {
                "orgId": 1,
                "name": name,
                "folder": "echowatch",
                "interval": INTERVALS[name],
                "rules": [_rule(rule) for rule in of],
            }
            for name, of in groups.items()
        ],
    }


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "uid": f"echowatch-{rule.name.lower()}",
        "title": rule.name,
        "condition": "fires",
        "for": rule.lasts,
        "noDataState": rule.empty or KEEP,
        "execErrState": rule.error or KEEP,
        "labels": {"severity": rule.severity, "owner": rule.owner, "scope": rule.scope},
        "annotations": {
            "summary": rule.summary,
            "description": rule.tells,
            **rule.links,
            "runbook_url": f"{RUNBOOKS}#{rule.name.lower()}",
        },
        "data": [
            *(node for name, query in rule.asks.items() for node in _number(name, query)),
            _expression("fires", {"type": "math", "expression": rule.fires}),
        ],
    }


def _number(name: str, query: str) -> list[dict[str, Any]]:
    """A query, and the newest number of each of its series."""
    asked = {
        "refId": f"{name}_rows",
        "datasourceUid": DATASOURCE,
        "relativeTimeRange": {"from": seconds(KEPT), "to": 0},
        "model": {
            "refId": f"{name}_rows",
            "rawQuery": True,
            "resultFormat": "time_series",
            "query": query,
        },
    }
    newest = {
        "type": "reduce",
        "expression": f"{name}_rows",
        "reducer": "last",
        "settings": {"mode": "dropNN"},
    }
    return [asked, _expression(name, newest)]


def _expression(name: str, model: dict[str, Any]) -> dict[str, Any]:
    return {"refId": name, "datasourceUid": "__expr__", "model": {"refId": name, **model}}


def seconds(span: str) -> int:
    """Length of a span of InfluxQL, s.

    >>> seconds("90d"), seconds("30s")
    (7776000, 30)
    """
    return int(span[:-1]) * {"s": 1, "m": 60, "h": 3600, "d": 86_400}[span[-1]]


def text() -> str:
    """The file."""
    # A query that wraps reads worse than a long line.
    return HEAD + yaml.safe_dump(document(), sort_keys=False, width=100_000)


def problems() -> Iterator[str]:
    """What is wrong, each in words; nothing where all is well."""
    if not FILE.exists() or FILE.read_text(encoding="utf-8") != text():
        yield f"{FILE.name} is not what the table says: run python grafana/rules.py write"
    for rule in RULES:
        for name, query in rule.asks.items():
            yield from (f"{rule.name}, {name}: {found}" for found in unknown_names(query))
        lacking = set(re.findall(r"\$(\w+)", rule.fires)) - set(rule.asks)
        told = set(re.findall(r"\.Values\.(\w+)", rule.summary + rule.tells)) - set(rule.asks)
        yield from (f"{rule.name}: no query is called {name}" for name in sorted(lacking | told))


# Words of InfluxQL that stand where names stand.
_WORDS = frozenset(
    re.findall(
        r"\w+",
        "select from where group by and or as time now last max min mean sum count distinct "
        "false true non_negative_difference",
    )
)


def unknown_names(query: str) -> list[str]:
    """Names in a query that the schema lacks, or that it has only elsewhere."""
    plain = re.sub(r"'[^']*'|/[^/]*/|\d+[smhd]\b", " ", query)
    names = set(re.findall(r"[A-Za-z_]\w*", plain))
    measurements = set(re.findall(r"\bFROM (\w+)", plain))
    made = set(re.findall(r"\bAS (\w+)", plain))
    found = [f"no measurement {name}" for name in sorted(measurements - set(SCHEMA))]
    known = {
        name
        for measurement in measurements & set(SCHEMA)
        for name in (*SCHEMA[measurement].tags, *SCHEMA[measurement].fields)
    }
    left = {name for name in names if name.lower() not in _WORDS} - made - measurements - known
    return found + [f"{', '.join(sorted(measurements))} has no {name}" for name in sorted(left)]


def main() -> int:
    """Write or check; exit code 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("verb", choices=("write", "check"))
    if parser.parse_args().verb == "write":
        FILE.parent.mkdir(parents=True, exist_ok=True)
        FILE.write_text(text(), encoding="utf-8")
    found = list(problems())
    for problem in found:
        print(problem, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
