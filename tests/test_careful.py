import numpy as np
import pytest

from pipeline.assembly import build_monitor
from pipeline.careful import CarefulEncoder
from pipeline.fleet import Fleet
from pipeline.messages import NS_PER_S, Flags, SensorChunk
from pipeline.settings import load

SETTINGS = load({}, profile="accelerated", learning={"min_windows": 16})
POISON, NAN, ONCE = 1000.0, 2000.0, 3000.0


class Moody:
    """An encoder that cannot take some windows: their first sample says how they fail."""

    model_id, trained = "moody", True

    def __init__(self):
        self.calls = []

    def embed(self, samples, sample_rates_hz, gains=None):
        del sample_rates_hz, gains
        self.calls.append(len(samples))
        first = [float(x[0]) for x in samples]
        if POISON in first:
            raise RuntimeError("CUDA error")
        if ONCE in first and len(samples) > 1:
            raise MemoryError("too many")
        power = [np.mean(np.asarray(x[1:], np.float64) ** 2) for x in samples]
        return [
            np.full((2, 2), np.nan if mood == NAN else 1.0 + p, np.float32)
            for mood, p in zip(first, power, strict=True)
        ]

    def band_edges_hz(self, sample_rate_hz):
        return ((0.0, sample_rate_hz / 4), (sample_rate_hz / 4, sample_rate_hz / 2))


def window(mood=1.0):
    return np.concatenate([[mood], np.ones(99)]).astype(np.float32)


def careful():
    inner, told = Moody(), []
    return CarefulEncoder(inner, told.append), inner, told


def embed(encoder, *moods):
    return encoder.embed([window(mood) for mood in moods], [100.0] * len(moods))


def lost(found):
    return [embedding is None for embedding in found]


def test_healthy_windows_cost_one_call():
    encoder, inner, told = careful()
    assert lost(embed(encoder, 1.0, 1.0, 1.0)) == [False] * 3
    assert inner.calls == [3]
    assert told == []
    assert encoder.embed([], []) == []


@pytest.mark.parametrize(("mood", "calls"), [(POISON, [3, 1, 1, 1]), (NAN, [3, 1])])
def test_a_window_that_fails_alone_too_costs_itself_only(mood, calls):
    encoder, inner, told = careful()
    assert lost(embed(encoder, 1.0, mood, 1.0)) == [False, True, False]
    assert inner.calls == calls
    assert [type(error) for error in told] == [RuntimeError if mood == POISON else type(None)]


def test_windows_that_work_alone_are_not_lost():
    encoder, _, told = careful()
    assert lost(embed(encoder, 1.0, ONCE)) == [False, False]
    assert told == []


@pytest.mark.parametrize(("mood", "words"), [(POISON, "CUDA error"), (NAN, "not finite for all")])
def test_an_encoder_that_takes_nothing_is_broken(mood, words):
    encoder, _, told = careful()
    with pytest.raises(RuntimeError, match=words):
        embed(encoder, mood, mood)
    assert told == []


def test_the_third_single_window_in_a_row_is_the_encoder_not_the_window():
    encoder, _, told = careful()
    for _ in range(2):
        assert lost(embed(encoder, POISON)) == [True]
    embed(encoder, 1.0)
    for _ in range(2):
        assert lost(embed(encoder, POISON)) == [True]
    with pytest.raises(RuntimeError, match="CUDA error"):
        embed(encoder, POISON)
    assert len(told) == 4


def test_a_person_who_interrupts_is_obeyed():
    class Interrupted(Moody):
        def embed(self, *_):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed(CarefulEncoder(Interrupted(), print), 1.0, 1.0)


def test_it_stands_for_the_encoder_that_it_wraps():
    encoder, inner, _ = careful()
    assert (encoder.model_id, encoder.trained) == ("moody", True)
    assert encoder.band_edges_hz(100.0) == inner.band_edges_hz(100.0)


@pytest.mark.parametrize("at", [5, 40])
@pytest.mark.parametrize("mood", [POISON, NAN])
def test_a_window_that_cannot_be_embedded_is_unknown_and_neither_learnt_nor_scored(at, mood):
    rng = np.random.default_rng(0)
    chunks = []
    for i in range(60):
        samples = rng.normal(size=2000)
        samples[0] = mood if i == at else 1.0
        chunks.append(
            SensorChunk(
                "m/a", 2000.0, (1_700_000_000 + 10 * i) * NS_PER_S, samples.astype(np.float32),
                seq=i, flags=Flags.END_OF_CAPTURE,
            )
        )  # fmt: skip
    encoder = Moody() if mood == NAN else careful()[0]
    monitor = build_monitor(SETTINGS, Fleet(), encoder)
    windows = [w for i in range(0, 60, 10) for w in monitor.process(chunks[i : i + 10]).windows]
    assert len(windows) == 60
    bad = windows[at]
    assert (bad.status, bad.running, bad.drift) == ("unknown", False, None)
    assert bad.health.faults == ("not_embedded",)
    assert "model could not read this window" in bad.health.detail
    assert [t.action for t in bad.transitions] == ["sensor_bad"]
    assert all(w.health.ok and w.drift for i, w in enumerate(windows) if i != at)
    if at == 5:
        assert windows[6].drift.baseline_n == 6
