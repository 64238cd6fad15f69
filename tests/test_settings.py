import re
from pathlib import Path

import pytest

from pipeline.assembly import build_monitor, rules
from pipeline.fleet import Fleet
from pipeline.messages import Severity
from pipeline.settings import PROFILES, SettingsError, load, names

ROOT = Path(__file__).resolve().parents[1]


def test_every_variable_and_profile_is_documented_with_its_default():
    text = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    table = dict(re.findall(r"^\| `(ECHOWATCH_\w+)` \| ([^|]*) \|", text, re.MULTILINE))
    expected = {
        name: "none" if default is None
        else ", ".join(default) if isinstance(default, tuple)
        else str(default)
        for name, (_, default, _) in names().items()
    }  # fmt: skip
    assert table == expected
    assert all(f"| `{profile}` |" in text for profile in PROFILES)


def test_lists_of_names_come_from_the_process_environment(monkeypatch):
    monkeypatch.setenv("ECHOWATCH_KAFKA__BOOTSTRAP", "127.0.0.1:9092, [::1]:9093")
    monkeypatch.setenv("ECHOWATCH_DETECTION__DETECTORS", "kswin,adwin")
    settings = load()
    assert settings.kafka.bootstrap == ("127.0.0.1:9092", "[::1]:9093")
    assert settings.detection.detectors == ("kswin", "adwin")


def test_later_sources_win_over_earlier_ones():
    environment = {"ECHOWATCH_PROFILE": "accelerated", "ECHOWATCH_LEARNING__MIN_WINDOWS": "300"}
    settings = load(environment)
    assert (settings.profile, settings.learning.min_windows) == ("accelerated", 300)
    assert settings.learning.min_span_s == 0.0
    assert load(environment, profile="short").delays.off_delay_s == 1.0
    assert load(environment, learning={"min_windows": 64}).learning.min_windows == 64


def test_lists_come_as_commas():
    settings = load({"ECHOWATCH_DETECTION__DETECTORS": "kswin,page_hinkley"})
    assert settings.detection.detectors == ("kswin", "page_hinkley")


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"ECHOWATCH_MODLE": "tiny"}, "did you mean ECHOWATCH_MODEL"),
        ({"ECHOWATCH_PROFILE": "fast"}, "one of plant, accelerated, short, got 'fast'"),
        ({"ECHOWATCH_LEARNING__MIN_WINDOWS": "3"}, "learning.min_windows"),
        ({"ECHOWATCH_DETECTION__DETECTORS": "adwim"}, "adwin"),
    ],
)
def test_a_wrong_variable_stops_the_start_with_words(environment, message):
    with pytest.raises(SettingsError, match=re.escape(message)):
        load(environment)


def test_an_empty_variable_names_no_file():
    settings = load({"ECHOWATCH_INFLUX__TOKEN_FILE": "", "ECHOWATCH_WORKER__FLEET": ""})
    assert settings.influx.token_text() is None
    assert settings.worker.fleet is None


def test_thresholds_are_the_same_in_all_profiles():
    chosen = [load({}, profile=name) for name in PROFILES]
    assert len({settings.detection for settings in chosen}) == 1
    assert len({settings.learning.budget_windows for settings in chosen}) == 1


def test_only_an_alarm_latches():
    found = rules(load({}).delays)
    assert {severity for severity, rule in found.items() if rule.latch} == {Severity.ALARM}


def test_numbers_that_do_not_go_together_stop_the_start():
    class Silent:
        model_id, trained = "none", False

    settings = load({"ECHOWATCH_DELAYS__ON_WINDOWS": "9"})
    with pytest.raises(SettingsError, match="on_windows must be at least 1 and at most"):
        build_monitor(settings, Fleet(), Silent())
