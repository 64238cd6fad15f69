import math
import re
from pathlib import Path
from threading import Event, Thread
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from pipeline.messages import StreamEventKind
from pipeline.streaming.metrics import (
    DEAD_LETTER_REASONS,
    RECENT_S,
    RECENT_VALUES,
    Metrics,
    exposition,
)
from pipeline.wire import REASONS

DOCS = (Path(__file__).resolve().parents[1] / "docs" / "metrics.md").read_text(encoding="utf-8")


class Clock:
    def __init__(self, now=1000.0):
        self.now = now

    def __call__(self):
        return self.now


def scraped(*metrics):
    """(name, labels without role) -> {role: value}, of one page."""
    found = {}
    for family in text_string_to_metric_families(exposition(metrics)[0].decode()):
        for name, labels, value, *_ in family.samples:
            role = labels.pop("role", None)
            series = found.setdefault((name, *sorted(labels.items())), {})
            assert role not in series, f"{name} {labels} twice for {role}"
            series[role] = value
    return found


def test_the_page_of_two_roles_declares_each_family_once_and_tells_them_apart():
    signals, cases = Metrics("signals"), Metrics("cases")
    signals.windows.inc(7)
    cases.messages.labels("sensor.transitions").inc(2)
    page, content_type = exposition([signals, cases])
    declared = re.findall(r"^# TYPE (\S+)", page.decode(), re.MULTILINE)
    assert len(declared) == len(set(declared))
    assert not any(name.endswith("_created") for name in declared)
    assert content_type.startswith("text/plain; version=0.0.4")
    found = scraped(signals, cases)
    assert found["echowatch_windows_total",] == {"signals": 7.0, "cases": 0.0}
    assert found["echowatch_messages_total", ("topic", "sensor.transitions")] == {"cases": 2.0}


def test_the_page_of_one_role_is_the_same_without_the_other():
    signals = Metrics("signals")
    page = signals.text()[0].decode()
    lines = [line for line in page.splitlines() if line.startswith("echowatch_")]
    both = exposition([signals, Metrics("cases")])[0].decode().splitlines()
    assert lines == [line for line in both if 'role="signals"' in line]


def test_every_reason_and_kind_is_exported_before_it_happens():
    found = scraped(Metrics("signals"))
    reasons = {key[1][1] for key in found if key[0] == "echowatch_dead_letters_total"}
    kinds = {key[1][1] for key in found if key[0] == "echowatch_stream_events_total"}
    assert reasons == set(DEAD_LETTER_REASONS)
    assert set(REASONS) | {"unknown_sensor", "influx_refused", "encoder_failed"} <= reasons
    assert kinds == set(get_args(StreamEventKind))
    assert {v for key, each in found.items() if "_total" in key[0] for v in each.values()} == {
        0.0,
        found["process_cpu_seconds_total",][None],
    }


def test_a_registry_knows_nothing_of_another():
    first, second = Metrics("signals"), Metrics("signals")
    first.windows.inc()
    assert scraped(second)["echowatch_windows_total",] == {"signals": 0.0}


def test_a_revoked_partition_leaves_the_page_and_the_others_stay():
    metrics = Metrics("signals")
    for partition in range(3):
        metrics.lag.labels("sensors.signals", str(partition)).set(partition + 1)
    metrics.forget_partitions([("sensors.signals", 1), ("never.seen", 4)])
    left = {key[1:] for key in scraped(metrics) if key[0] == "echowatch_lag_messages"}
    assert {dict(labels)["partition"] for labels in left} == {"0", "2"}
    assert metrics.snapshot()["lag"] == 4.0
    assert metrics.snapshot()["lag_max"] == 3.0


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 200), st.floats(0, 1e6)), max_size=30),
    st.floats(0, 400),
    st.floats(0, 1),
)
def test_a_quantile_is_that_of_the_last_five_minutes(observed, later_s, q):
    clock = Clock()
    metrics = Metrics("signals", clock=clock)
    seen = []
    for passed_s, value in observed:
        clock.now += passed_s
        metrics.embed_s.observe(value)
        seen.append((clock.now, value))
    clock.now += later_s
    recent = [value for at, value in seen if at >= clock.now - RECENT_S]
    found = metrics.quantile("embed_s", q)
    assert found == pytest.approx(np.quantile(recent, q)) if recent else math.isnan(found)


def test_a_quantile_forgets_all_but_the_last_values():
    metrics = Metrics("signals", clock=Clock())
    for value in range(RECENT_VALUES + 10):
        metrics.embed_s.observe(value)
    assert metrics.quantile("embed_s", 0.0) == 10.0
    assert metrics.quantile("embed_s", 1.0) == RECENT_VALUES + 9


def test_the_exported_quantiles_are_the_readable_ones():
    metrics = Metrics("signals", clock=Clock())
    for value in (0.2, 0.4, 0.9):
        metrics.sample_to_score_s.observe(value)
    found = scraped(metrics)
    for suffix, q in (("p50", 0.5), ("p99", 0.99)):
        shown = found[f"echowatch_sample_to_score_seconds_{suffix}",]["signals"]
        assert shown == metrics.quantile("sample_to_score_s", q)
        assert metrics.snapshot()[f"sample_to_score_s_{suffix}"] == shown
    assert found["echowatch_sample_to_score_seconds_bucket", ("le", "0.5")] == {"signals": 2.0}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_time_that_is_none_spoils_no_statistics(value):
    metrics = Metrics("signals")
    metrics.embed_s.observe(value)
    metrics.embed_s.observe(0.25)
    assert metrics.quantile("embed_s", 0.99) == 0.25
    assert scraped(metrics)["echowatch_embed_seconds_sum",] == {"signals": 0.25}


def test_an_unknown_timing_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"one of .*embed_s.*, got 'embed'"):
        Metrics("signals").quantile("embed", 0.5)


def test_the_lag_in_event_time_grows_while_nothing_happens():
    wall = Clock(1_800_000_000.0)
    metrics = Metrics("signals", wall=wall)
    assert math.isnan(scraped(metrics)["echowatch_event_time_lag_seconds",]["signals"])
    assert "event_time_lag_s" not in metrics.snapshot()
    metrics.last_event_ns.set(1_799_999_990_000_000_000)
    assert metrics.snapshot()["event_time_lag_s"] == 10.0
    wall.now += 50.0
    assert scraped(metrics)["echowatch_event_time_lag_seconds",]["signals"] == 60.0
    assert metrics.snapshot()["last_event_s"] == 1_799_999_990.0


def test_the_age_of_a_checkpoint_is_taken_at_the_scrape():
    clock = Clock()
    metrics = Metrics("signals")
    assert "checkpoint_age_s" not in metrics.snapshot()
    metrics.checkpoint_age_s.set_function(lambda: clock.now - 1000.0)
    clock.now += 4.0
    assert scraped(metrics)["echowatch_checkpoint_age_seconds",]["signals"] == 4.0
    assert metrics.snapshot()["checkpoint_age_s"] == 4.0


def test_a_snapshot_has_finite_numbers_under_plain_names_only():
    metrics = Metrics("signals")
    snapshot = metrics.snapshot()
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", key) for key in snapshot)
    assert all(isinstance(v, float) and math.isfinite(v) for v in snapshot.values())
    assert not any(key.startswith("embed_s") for key in snapshot)


def test_rates_are_since_the_snapshot_before():
    clock = Clock()
    metrics = Metrics("signals", clock=clock)
    for count, topic in ((30, "a"), (10, "b")):
        metrics.messages.labels(topic).inc(count)
    clock.now += 4.0
    assert metrics.snapshot()["messages_per_s"] == 10.0
    metrics.messages.labels("a").inc(6)
    clock.now += 2.0
    snapshot = metrics.snapshot()
    assert (snapshot["messages_per_s"], snapshot["messages"]) == (3.0, 46.0)
    assert "messages_per_s" not in metrics.snapshot()


def test_threads_lose_no_count_while_pages_are_read():
    metrics, done = Metrics("signals"), Event()
    threads, each = 4, 2000

    def work(number):
        for step in range(each):
            metrics.windows.inc()
            metrics.embed_s.observe(0.001 * step)
            metrics.lag.labels("t", str(number)).set(step)
            metrics.forget_partitions([("t", number)])

    def read():
        while not done.is_set():
            scraped(metrics)
            metrics.snapshot()

    reader = Thread(target=read)
    workers = [Thread(target=work, args=(number,)) for number in range(threads)]
    for thread in (reader, *workers):
        thread.start()
    for thread in workers:
        thread.join()
    done.set()
    reader.join()
    assert metrics.snapshot()["windows"] == threads * each
    assert scraped(metrics)["echowatch_embed_seconds_count",] == {"signals": threads * each}


def test_who_works_is_on_the_page():
    metrics = Metrics("cases")
    metrics.identify(version="0.1.0", model="nano", host='plant "A"\n1')
    (labels,) = [key[1:] for key in scraped(metrics) if key[0] == "echowatch_worker_info"]
    assert dict(labels) == {"version": "0.1.0", "model": "nano", "host": 'plant "A"\n1'}


def rows(first):
    """Cells of the lines of tables in the page whose first cell matches."""
    lines = [line for line in DOCS.splitlines() if re.match(rf"\| {first} \|", line)]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def registered():
    """Name -> (type, meaning), as the code has it."""
    found = {}
    for family in Metrics("signals").registry.collect():
        name = {"counter": f"{family.name}_total", "info": f"{family.name}_info"}.get(
            family.type, family.name
        )
        found[name] = (family.type, family.documentation)
    return found


def test_every_metric_is_documented_as_it_is_and_nothing_else():
    described = {}
    for cell, kind, _, meaning, _ in rows(r"`echowatch_\w+`"):
        name = cell.strip("`")
        described[name] = (kind.split(",")[0], meaning)
        for suffix in re.findall(r"`_(p\d+)`", kind):
            described[f"{name}_{suffix}"] = ("gauge", f"{meaning}: {suffix} of recent values")
    assert described == registered()


def test_every_label_is_documented():
    metrics = Metrics("signals")
    metrics.identify(version="1", model="m", host="h")
    for counter in (metrics.messages, metrics.bytes):
        counter.labels("t")
    metrics.lag.labels("t", "0")
    labels = {}
    for name, *pairs in scraped(metrics):
        base = re.sub(r"_(bucket|count|sum)$", "", name)
        labels.setdefault(base, set()).update(key for key, _ in pairs if key != "le")
    for cell, _, described, *_ in rows(r"`echowatch_\w+`"):
        assert set(re.findall(r"\w+", described)) == labels[cell.strip("`")], cell


def test_every_rule_is_described_and_asks_for_metrics_that_are():
    used = {r for *_, cell in rows(r"`echowatch_\w+`") for r in re.findall(r"\w+", cell)}
    rules = {name: expression for name, expression, *_ in rows(r"[A-Z]\w+")}
    assert used <= set(rules)
    for name, expression in rules.items():
        asked = set(re.findall(r"echowatch_\w+", expression))
        assert asked <= set(registered()), name
        assert asked or name in ("Down", "Restarts")


def test_the_example_shows_only_what_is_exported():
    (example,) = re.findall(r"```text\n(.*?)```", DOCS, re.DOTALL)
    known = registered()
    for family in text_string_to_metric_families(example):
        for sample in family.samples:
            if not sample.name.startswith("process_"):
                assert re.sub(r"_(bucket|count|sum)$", "", sample.name) in known
                assert sample.labels["role"] in ("signals", "cases")
