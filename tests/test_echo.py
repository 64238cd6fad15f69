"""ECHO gives the published numbers, and clear answers to bad input."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from echo_model import features
from echo_model.checkpoints import CONFIGS, EchoConfig
from echo_model.echo import LAYER_EPS, AudioMAEWithBand, Echo, Run, place_tokens

GOLDEN = Path(__file__).resolve().parents[2] / "shared" / "golden" / "echo_golden.npz"
CASES = (
    "sr16000_1s", "sr25600_1s", "sr44100_odd", "sr48000_odd", "sr8000_odd", "sr11025_oddfft",
    "sr97656", "sr12800_16frames", "sr16000_1frame", "sr1000_oneband_2001frames",
    "sr1000_2000frames", "sr2560_4300frames", "sr8000_constant", "sr25600_counts", "sr16000_tiny",
)  # fmt: skip
SMALLEST = EchoConfig(16, 2, 2)

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def golden() -> Any:
    if not GOLDEN.is_file():
        pytest.skip("../shared/golden/echo_golden.npz is missing")
    return np.load(GOLDEN)


def golden_model(golden: Any, heads: int = 3, eps: float = 1e-5) -> Echo:
    model = Echo(EchoConfig(48, 2, heads, final_norm_eps=eps), parity=True).eval()
    names = [name for name in golden.files if name.startswith("sd/")]
    weights = {name.removeprefix("sd/"): torch.from_numpy(golden[name]) for name in names}
    model.load_state_dict(weights, strict=True)
    return model


def model(**options: Any) -> Echo:
    return Echo(SMALLEST, **options).eval()


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def off(ours: torch.Tensor, theirs: np.ndarray) -> float:
    assert tuple(ours.shape) == theirs.shape
    return float(np.abs(ours.numpy() - theirs).max())


@pytest.mark.shared
@pytest.mark.parametrize("case", CASES)
def test_published_code_and_ours_agree(golden: Any, case: str) -> None:
    net, rate = golden_model(golden), int(golden[f"{case}/sample_rate"])
    spec = net.preprocess_audio_to_spectrogram(golden[f"{case}/wave"], rate)
    assert off(spec, golden[f"{case}/spec"]) < 2e-4
    assert off(net.band_codes(rate), golden[f"{case}/freq_code"]) < 5e-6
    utterance, segments = net.extract_features(spec, rate)
    assert off(utterance, golden[f"{case}/utterance"]) < 1e-5
    assert off(segments, golden[f"{case}/segment"]) < 1e-5
    clips = features.clip_frames(spec.shape[-1], 2000, parity=True)
    assert [list(clip) for clip in clips] == golden[f"{case}/clip_frames"].tolist()


@pytest.mark.shared
def test_every_golden_case_is_tested(golden: Any) -> None:
    assert set(golden["cases"]) == set(CASES)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("key", "heads", "eps"),
    [("utterance_heads6", 6, 1e-5), ("utterance_final_eps_1e-6", 3, 1e-6)],
)
def test_heads_and_epsilon_reach_the_result(golden: Any, key: str, heads: int, eps: float) -> None:
    net, case = golden_model(golden, heads, eps), "sr16000_1s"
    got = net.extract_features_from_audio(golden[f"{case}/wave"], 16000).utterance
    assert off(got, golden[f"{case}/{key}"]) < 1e-5
    # The two variants differ from the plain result by 1.5e-5 and 0.19: both are visible.
    assert off(got, golden[f"{case}/utterance"]) > 1.2e-5


@pytest.mark.shared
def test_tokens_agree_after_every_stage(golden: Any) -> None:
    net, case = golden_model(golden), "sr16000_1s"
    spec = torch.from_numpy(golden[f"{case}/spec"])[None]
    bands = features.split_bands(spec, net.band_bins(16000), 32)[0]
    embedded = net.patch_embed(features.to_patches(bands, 16).flatten(0, 1))
    codes, runs = net.band_codes(16000), [Run(7, 8)]
    with torch.no_grad():
        x = place_tokens(embedded, codes, net.cls_token, net.pos_embed, runs)
        assert off(x.view(7, 8, 48), golden[f"{case}/tokens_in"]) < 1e-5
        for i, block in enumerate(net.encoder.blocks()):
            x = block(x, runs)
            assert off(x.view(7, 8, 48), golden[f"{case}/after_layer_{i}"]) < 1e-5
        assert off(net(bands, codes), golden[f"{case}/tokens_out"]) < 1e-5


@pytest.mark.shared
def test_clips_of_a_long_signal_agree_one_by_one(golden: Any) -> None:
    net, case = golden_model(golden), "sr2560_4300frames"
    spec = torch.from_numpy(golden[f"{case}/spec"])
    for (a, b), theirs in zip(
        golden[f"{case}/clip_frames"], golden[f"{case}/utterance_per_clip"], strict=True
    ):
        assert off(net.extract_features(spec[:, a:b], 2560).utterance, theirs) < 1e-5


@pytest.mark.shared
def test_time_position_is_the_published_table(golden: Any) -> None:
    assert off(features.time_position(125, 48), golden["sd/pos_embed"]) < 1e-6


def test_layers_use_the_published_epsilon() -> None:
    # Goldens cannot see it (3e-6), so the configuration is what is tested.
    assert LAYER_EPS == 1e-6
    assert model().encoder.blocks()[0].norm2.eps == 1e-6


@pytest.mark.parametrize(("name", "count"), [("tiny", 5_461_632), ("small", 21_540_096)])
def test_sizes_are_the_published_ones(name: str, count: int) -> None:
    assert sum(p.numel() for p in Echo(CONFIGS[name]).parameters()) == count


def test_silence_is_the_log_floor() -> None:
    spec = model().preprocess_audio_to_spectrogram(np.full(1000, 0.1, np.float32), 8000)
    assert torch.allclose(spec, torch.tensor(-1.42146), atol=1e-5)


def test_a_channel_does_not_depend_on_its_neighbours() -> None:
    net, audio = model(), noise(3, 9000) + np.array([[0.0], [5.0], [-1.0]], np.float32)
    together = net.extract_features_from_audio(audio, 16000)
    assert together.utterance.shape == (3, 7 * 16)
    for i, channel in enumerate(audio):
        alone = net.extract_features_from_audio(channel, 16000)
        assert torch.allclose(together.utterance[i], alone.utterance, atol=1e-5)
        assert torch.allclose(together.segments[i], alone.segments, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float64])
def test_number_format_does_not_matter(dtype: type) -> None:
    counts = np.round(noise(4000) * 1000)
    net = model()
    got = net.extract_features_from_audio(counts.astype(dtype), 8000).utterance
    want = net.extract_features_from_audio(counts.astype(np.float32), 8000).utterance
    assert torch.equal(got, want)


def test_result_unpacks_as_a_pair_and_carries_its_times() -> None:
    net = model()
    result = net.extract_features_from_audio(noise(44100), 44100)
    utterance, segments = result
    assert utterance.shape == (18 * 16,)
    assert segments.shape == (7, 18 * 16)
    assert torch.equal(result.segment_times_s, net.segment_times(98, 44100))
    assert torch.allclose(
        result.segment_times_s, 16 * 441 / 44100 * torch.arange(7, dtype=torch.float64)
    )


def test_times_follow_the_real_hop() -> None:
    assert model().segment_times(17, 20480).tolist() == [0.0, 16 * 204 / 20480]


def test_tail_of_a_long_clip_is_not_counted_twice() -> None:
    net = Echo(EchoConfig(16, 2, 2, spec_len=64)).eval()
    audio = noise(25 + (150 - 1) * 10)  # 150 frames at 1 kHz: clips of 64, 64 and 22
    got = net.extract_features_from_audio(audio, 1000)
    spec = net.preprocess_audio_to_spectrogram(audio, 1000)
    parts = [net.extract_features(spec[:, a:b], 1000) for a, b in ((0, 64), (64, 128), (128, 150))]
    mean = sum(p.utterance * n for p, n in zip(parts, (64, 64, 22), strict=True)) / 150
    assert torch.allclose(got.utterance, mean, atol=1e-6)
    assert torch.allclose(got.segments, torch.cat([p.segments for p in parts]), atol=1e-6)
    assert bool((got.segment_times_s.diff() > 0).all())
    assert len(got.segment_times_s) == len(got.segments) == 10


def test_parity_repeats_the_tail_as_published() -> None:
    net = Echo(EchoConfig(16, 2, 2, spec_len=64), parity=True).eval()
    got = net.extract_features_from_audio(noise(25 + (150 - 1) * 10), 1000)
    assert len(got.segments) == 12
    assert got.segment_times_s[8].item() == pytest.approx(0.86)


@pytest.mark.parametrize(
    ("last_band", "ranges"),
    [("pad", ((0, 32), (32, 33))), ("drop", ((0, 32),)), ("overlap", ((0, 32), (1, 33)))],
)
def test_last_band_is_padded_dropped_or_overlapped(last_band: Any, ranges: Any) -> None:
    net = model(last_band=last_band)
    assert net.band_bins(2560) == ranges
    got = net.extract_features_from_audio(noise(2560), 2560)
    assert got.utterance.shape == (len(ranges) * 16,)
    # The first band never changes.
    assert torch.allclose(
        got.utterance[:16], model().extract_features_from_audio(noise(2560), 2560).utterance[:16]
    )


def test_a_short_band_lies_above_its_zero_rows() -> None:
    spec = torch.arange(1.0, 36.0).view(1, 35, 1)
    bands = features.split_bands(spec, ((0, 32), (32, 35)), 32)
    assert bands[0, 1, :, 0].tolist() == [0.0] * 29 + [33.0, 34.0, 35.0]


def test_too_few_bins_for_drop_are_named() -> None:
    with pytest.raises(ValueError, match="needs 32 bins, got 13: use last_band='pad'"):
        model(last_band="drop").band_bins(1000)
    with pytest.raises(ValueError, match="must be one of"):
        model(last_band="mirror")


@pytest.mark.parametrize(
    ("audio", "rate", "text"),
    [
        (np.zeros(399, np.float32), 16000, "at least one frame of 400 samples"),
        (np.full(1000, np.nan, np.float32), 16000, "must be finite"),
        (np.full(1000, 1e300), 16000, "beyond float32"),
        (np.zeros(1000, np.float32), 99.9, ">= 100 Hz, got 99.9"),
        (np.zeros(1000, np.float32), float("nan"), "finite number"),
        (np.zeros((2, 2, 1000), np.float32), 16000, r"\(N,\) or \(C, N\)"),
        (np.zeros(1000, np.complex64), 16000, "must be real"),
    ],
)
def test_bad_audio_is_answered_clearly(audio: np.ndarray, rate: float, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        model().extract_features_from_audio(audio, rate)


def test_bad_spectrograms_are_answered_clearly() -> None:
    with pytest.raises(ValueError, match=r"\(201, T\).*got \(200, 98\)"):
        model().extract_features(torch.zeros(200, 98), 16000)
    with pytest.raises(ValueError, match="finite"):
        model().extract_features(torch.full((201, 98), float("inf")), 16000)


@pytest.mark.parametrize(
    ("rate", "samples", "bands", "rows"),
    [
        (44100, 220500, 18, 32),  # ESC-50 clip: 5 s
        (25600, 2560, 11, 1),  # FEMTO capture: 0.1 s
        (97656.25, 20000, 39, 2),
        (100, 200, 1, 13),
    ],
)
def test_real_rates_give_their_shapes(rate: float, samples: int, bands: int, rows: int) -> None:
    utterance, segments = model().extract_features_from_audio(noise(samples), rate)
    assert utterance.shape == (bands * 16,)
    assert segments.shape == (rows, bands * 16)
    assert bool(torch.isfinite(segments).all())


def test_equal_relative_centres_share_a_code() -> None:
    net = model()
    assert torch.allclose(net.band_codes(16000)[:3], net.band_codes(16000.0)[:3])
    # 16 kHz band 0 has centre 31 / 400; 48 kHz band 1 has (32 + 64 - 1) / 1200.
    assert torch.allclose(
        features.frequency_code(((0, 32),), 400, 16),
        features.frequency_code(((31, 63),), 1200, 16),
        atol=1e-6,
    )


def test_untrained_networks_are_the_same_everywhere_and_say_so() -> None:
    one, two = Echo.from_pretrained("untrained:nano"), Echo.from_pretrained("untrained:nano")
    assert one.model_id == "echo-nano-untrained-s0"
    assert not one.trained
    assert one.sha256 is None
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(one.cls_token, Echo(CONFIGS["nano"], seed=1).cls_token)


def test_every_layer_starts_differently() -> None:
    first, second = model().encoder.blocks()
    assert not torch.equal(first.self_attn.in_proj_weight, second.self_attn.in_proj_weight)
    assert not torch.equal(first.linear1.weight, second.linear1.weight)


def test_window_of_whole_patches_has_no_padding() -> None:
    assert features.window_length(6, 16000) == 15600
    assert features.frame_count(15600, 16000) == 96


def test_gradients_reach_every_weight() -> None:
    net = model()
    net(torch.randn(3, 32, 32), torch.zeros(3, 16)).square().sum().backward()
    lacking = [n for n, p in net.named_parameters() if p.requires_grad and p.grad is None]
    assert lacking == []
    assert not net.pos_embed.requires_grad


def test_config_refuses_sizes_that_cannot_work() -> None:
    with pytest.raises(ValueError, match="multiple of num_heads, got 48 with 5"):
        EchoConfig(48, 2, 5)
    with pytest.raises(ValueError, match="multiple of patch_frames, got 100"):
        EchoConfig(48, 2, 3, spec_len=100)


def test_users_of_the_published_name_find_it() -> None:
    assert AudioMAEWithBand is Echo
