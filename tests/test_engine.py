"""The engine gives what the model gives, whatever else is in the batch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from echo_model import engine as engine_module
from echo_model.checkpoints import EchoConfig
from echo_model.echo import Echo
from echo_model.engine import EchoEngine, has_native_bf16

GOLDEN = Path(__file__).resolve().parents[2] / "shared" / "golden" / "echo_golden.npz"
CPU = torch.device("cpu")
RATES = (100.0, 1000.0, 2560.0, 8000.0, 11025.0, 16000.0, 25600.0, 44100.0, 97656.25)

torch.set_num_threads(1)

MODEL = Echo(EchoConfig(48, 3, 3), seed=5).eval()
ENGINE = EchoEngine(MODEL)
# Room for one clip only: nearly every window is cut over several calls.
CRAMPED = EchoEngine(MODEL, max_tokens=126)


def noise(size: int, seed: int = 0) -> NDArray[np.float32]:
    return (0.1 * np.random.default_rng(seed).standard_normal(size)).astype(np.float32)


def alone(samples: NDArray[Any], rate: float, model: Echo = MODEL) -> NDArray[np.float32]:
    utterance = model.extract_features_from_audio(samples, rate).utterance
    return utterance.numpy().reshape(-1, model.config.embed_dim)


def furthest(got: list[NDArray[np.float32]], want: list[NDArray[np.float32]]) -> float:
    assert [g.shape for g in got] == [w.shape for w in want]
    return max(float(np.abs(g - w).max()) for g, w in zip(got, want, strict=True))


@st.composite
def windows(draw: st.DrawFn) -> tuple[NDArray[np.float32], float]:
    rate = draw(st.sampled_from(RATES))
    shortest = ENGINE.min_samples(rate)
    size = draw(st.integers(shortest, max(shortest + 1, min(12000, int(2 * rate)))))
    return noise(size, draw(st.integers(0, 99))), rate


@settings(max_examples=30, deadline=None)
@given(st.lists(windows(), min_size=1, max_size=7), st.randoms(use_true_random=False))
def test_company_does_not_matter(batch: list[tuple[NDArray[np.float32], float]], rng: Any) -> None:
    want = [alone(samples, rate) for samples, rate in batch]
    order = list(range(len(batch)))
    rng.shuffle(order)
    shuffled = [batch[i] for i in order]
    samples, rates = [s for s, _ in shuffled], [r for _, r in shuffled]
    for engine in (ENGINE, CRAMPED):
        got = engine.embed(samples, rates)
        assert furthest(got, [want[i] for i in order]) < 1e-5


@pytest.mark.parametrize("patches", range(1, 10))
def test_bands_of_one_length_round_alike_in_any_number(patches: int) -> None:
    rate, size = 25600.0, 640 + 256 * (16 * patches - 1)
    waves = [noise(size, i) for i in range(12)]
    alone = [ENGINE.embed([wave], [rate])[0] for wave in waves]
    for count in (2, 3, 12):
        assert furthest(ENGINE.embed(waves[:count], [rate] * count), alone[:count]) == 0.0


def test_mixed_rates_equal_one_by_one() -> None:
    shapes = [(r, n) for r in RATES for n in (int(r), int(1.3 * r) + 1)] * 2
    samples = [noise(n, i) for i, (_, n) in enumerate(shapes)]
    rates = [r for r, _ in shapes]
    want = [ENGINE.embed([s], [r])[0] for s, r in zip(samples, rates, strict=True)]
    assert furthest(ENGINE.embed(samples, rates), want) < 1e-5
    assert furthest(want, [alone(s, r) for s, r in zip(samples, rates, strict=True)]) < 1e-5


@pytest.mark.shared
def test_goldens_of_all_rates_agree_in_one_batch() -> None:
    if not GOLDEN.is_file():
        pytest.skip("../shared/golden/echo_golden.npz is missing")
    golden = np.load(GOLDEN)
    net = Echo(EchoConfig(48, 2, 3), parity=True)
    weights = [name for name in golden.files if name.startswith("sd/")]
    net.load_state_dict({n.removeprefix("sd/"): torch.from_numpy(golden[n]) for n in weights})
    cases = golden["cases"].tolist()
    got = EchoEngine(net).embed(
        [golden[f"{case}/wave"] for case in cases],
        [float(golden[f"{case}/sample_rate"]) for case in cases],
    )
    assert furthest(got, [golden[f"{case}/utterance"].reshape(-1, 48) for case in cases]) < 1e-5


@pytest.mark.parametrize("parity", [False, True])
def test_long_windows_follow_the_models_clip_rule(*, parity: bool) -> None:
    net = Echo(EchoConfig(48, 2, 3, spec_len=64), parity=parity).eval()
    samples = [noise(25 + 149 * 10), noise(25 + 63 * 10, 1), noise(25 + 128 * 10, 2)]
    got = EchoEngine(net, max_tokens=8).embed(samples, [1000.0] * 3)
    assert furthest(got, [alone(s, 1000.0, net) for s in samples]) < 1e-5


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float64, np.float32])
def test_number_format_does_not_matter(dtype: type) -> None:
    counts = np.round(noise(2560) * 1000)
    got = ENGINE.embed([counts.astype(dtype)], [25600.0])
    assert furthest(got, [alone(counts, 25600.0)]) < 1e-5


def test_gain_acts_before_the_spectrogram() -> None:
    counts = np.round(noise(8000) * 2000).astype(np.int16)
    other = noise(8000, 1)
    got = ENGINE.embed([counts, other], [16000.0, 16000.0], gains=[0.25, 1.0])
    want = [alone(counts.astype(np.float32) * np.float32(0.25), 16000.0), alone(other, 16000.0)]
    assert furthest(got, want) < 1e-5
    assert furthest(got[:1], [alone(counts, 16000.0)]) > 1e-2


def test_inputs_are_left_as_they_were() -> None:
    samples = noise(8000)
    samples.flags.writeable = False
    first = ENGINE.embed([samples], [8000.0], gains=[3.0])[0]
    second = ENGINE.embed([samples], [8000.0], gains=[3.0])[0]
    assert np.array_equal(first, second)


def test_real_captures_give_their_shapes() -> None:
    got = ENGINE.embed([noise(220_500), noise(2560)], [44100.0, 25600.0])
    assert [(g.shape, g.dtype) for g in got] == [((18, 48), np.float32), ((11, 48), np.float32)]


def test_nothing_in_nothing_out() -> None:
    assert ENGINE.embed([], []) == []


@pytest.mark.parametrize(
    ("samples", "rate", "text"),
    [
        (noise(399), 16000.0, "one frame of 400 samples"),
        (noise(1000), 99.0, ">= 100 Hz, got 99"),
        (noise(1000), float("nan"), "finite number"),
        (np.full(1000, np.inf, np.float32), 16000.0, "must be finite"),
        (np.full(1000, 1e300), 16000.0, "beyond float32"),
        (np.zeros((2, 1000), np.float32), 16000.0, r"must be \(N,\), got \(2, 1000\)"),
    ],
)
def test_the_bad_window_is_named_and_can_be_sifted(
    samples: NDArray[Any], rate: float, text: str
) -> None:
    with pytest.raises(ValueError, match=rf"samples\[1\].*{text}"):
        ENGINE.embed([noise(1000), samples], [16000.0, rate])
    assert ENGINE.problem(samples, rate) is not None
    assert ENGINE.problem(noise(1000), 16000.0) is None


def test_values_too_large_for_a_spectrum_are_named() -> None:
    huge = np.float32(1e30) * noise(1000)
    with pytest.raises(ValueError, match=r"samples\[1\] must be small enough"):
        ENGINE.embed([noise(1000), huge], [16000.0, 16000.0])


def test_uneven_lists_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        ENGINE.embed([noise(1000)], [16000.0, 16000.0])
    with pytest.raises(ValueError, match="zip"):
        ENGINE.embed([noise(1000)], [16000.0], gains=[1.0, 2.0])


@pytest.mark.parametrize("rate", RATES)
def test_bands_touch_and_reach_nyquist(rate: float) -> None:
    edges = ENGINE.band_edges_hz(rate)
    assert edges[0][0] == 0.0
    # An odd n_fft has no bin at Nyquist; its last bin ends there.
    assert edges[-1][1] == pytest.approx(rate / 2)
    assert all(lo < hi for lo, hi in edges)
    assert [hi for _, hi in edges[:-1]] == [lo for lo, _ in edges[1:]]
    samples = noise(ENGINE.min_samples(rate))
    assert ENGINE.embed([samples], [rate])[0].shape == (len(edges), 48)


def test_a_rate_without_a_full_band_is_named_where_bands_are_dropped() -> None:
    engine = EchoEngine(Echo(EchoConfig(48, 1, 3), last_band="drop"))
    with pytest.raises(ValueError, match=r"samples\[0\] at 1000 Hz: .* needs 32 bins"):
        engine.embed([noise(1000)], [1000.0])


def test_shortest_window_is_one_frame() -> None:
    assert ENGINE.min_samples(25600.0) == 640


def test_dropped_band_ends_below_nyquist() -> None:
    engine = EchoEngine(Echo(EchoConfig(48, 1, 3), last_band="drop"))
    assert engine.band_edges_hz(25600.0)[-1] == (11500.0, 12780.0)


def test_the_engine_keeps_its_own_weights() -> None:
    net = Echo(EchoConfig(48, 1, 3)).eval()
    engine = EchoEngine(net)
    before = engine.embed([noise(1000)], [8000.0])[0]
    with torch.no_grad():
        for weight in net.parameters():
            weight.zero_()
    assert np.array_equal(engine.embed([noise(1000)], [8000.0])[0], before)


def test_rate_cache_stays_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "CACHED_RATES", 3)
    engine = EchoEngine(MODEL)
    for rate in range(1000, 2000, 100):
        engine.embed([noise(200)], [float(rate)])
    assert len(engine._codes) <= 3


def test_no_call_exceeds_its_tokens() -> None:
    engine = EchoEngine(MODEL, max_tokens=150)
    samples, rates = [noise(8000, i) for i in range(5)] + [noise(20000)], [8000.0] * 6
    calls = engine._calls(engine._pieces(samples, rates, [1.0] * 6), [])
    sizes = [sum(p.shape[0] * (1 + p.shape[1]) for p, _ in call) for call in calls]
    assert max(sizes) <= 150
    assert sum(sizes) == 5 * 4 * 8 + 4 * 17


def test_wide_networks_get_fewer_tokens_per_call() -> None:
    assert EchoEngine(Echo(EchoConfig(192, 1, 3))).max_tokens == 2048
    assert EchoEngine(Echo(EchoConfig(384, 1, 6))).max_tokens == 1024
    with pytest.raises(ValueError, match=r"at least 126 .*, got 125"):
        EchoEngine(MODEL, max_tokens=125)


def test_unknown_devices_and_precisions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"cpu or cuda\[:N\], got 'meta'"):
        EchoEngine(MODEL, device="meta")
    with pytest.raises(ValueError, match=r"\('fp32', 'bf16'\), got 'int8'"):
        EchoEngine(MODEL, precision="int8")  # type: ignore[arg-type]


def test_a_missing_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="needs a CUDA GPU, got none"):
        EchoEngine(MODEL, device="cuda")


def test_bf16_is_refused_where_it_would_be_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    with pytest.raises(ValueError, match="needs AMX or AVX512-BF16"):
        EchoEngine(MODEL, precision="bf16")


def test_bf16_stays_close_and_has_its_own_id(monkeypatch: pytest.MonkeyPatch) -> None:
    # Emulated bf16 gives the same numbers slowly, so the law holds on every processor.
    if not has_native_bf16(CPU):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    engine = EchoEngine(MODEL, precision="bf16")
    assert engine.model_id == MODEL.model_id + "-bf16"
    samples, rates = [noise(16000), noise(20000, 1)], [16000.0, 8000.0]
    for got, want in zip(engine.embed(samples, rates), ENGINE.embed(samples, rates), strict=True):
        cosine = np.sum(got * want) / np.linalg.norm(got) / np.linalg.norm(want)
        assert cosine > 0.999


def test_engine_reports_its_model() -> None:
    assert ENGINE.model_id == MODEL.model_id == "echo-d48l3-h3-untrained-s5"
    assert not ENGINE.trained
    assert ENGINE.embed_dim == 48


def test_plain_matrix_kernels_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "packs_weights", lambda _: False)
    samples, rates = [noise(16000), noise(2560, 1)], [16000.0, 25600.0]
    got = EchoEngine(MODEL).embed(samples, rates)
    assert furthest(got, ENGINE.embed(samples, rates)) < 1e-5


@pytest.mark.parametrize("device", ["cpu", "cuda"][: 1 + torch.cuda.is_available()])
def test_every_device_here_gives_the_same(device: str) -> None:
    samples, rates = [noise(16000), noise(2560, 1)], [16000.0, 25600.0]
    got = EchoEngine(MODEL, device=device).embed(samples, rates)
    assert furthest(got, [alone(*w) for w in zip(samples, rates, strict=True)]) < 1e-4
