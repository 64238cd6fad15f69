"""A GPU gives what the CPU gives; its batching, staging and halving hold on every machine."""

import gc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from echo_model import gpu
from echo_model.checkpoints import EchoConfig
from echo_model.echo import Echo
from echo_model.engine import EchoEngine
from echo_model.gpu import GpuEncoder, Halving, Shape, Staging, bucket

CPU = torch.device("cpu")
MODEL = Echo(EchoConfig(48, 3, 3, spec_len=128), seed=5).eval()
ENGINE = EchoEngine(MODEL)
RATES = (1000.0, 8000.0, 16000.0, 25600.0)

torch.set_num_threads(1)


def encoder():
    """The GPU's code on this processor."""
    return GpuEncoder(ENGINE._forward, ENGINE._tokens, ENGINE._tables, CPU)


def counts(size, seed=0):
    return (3000 * np.random.default_rng(seed).standard_normal(size)).astype(np.int16)


def windows(n=9):
    """int16 and float32, four rates, several lengths, one longer than a clip."""
    shapes = [(rate, int(s * rate)) for rate in RATES for s in (0.1, 0.5)] + [(1000.0, 2000)]
    samples = [counts(shapes[i % len(shapes)][1], i) for i in range(n)]
    mixed = [x if i % 3 else x.astype(np.float32) for i, x in enumerate(samples)]
    return mixed, [shapes[i % len(shapes)][0] for i in range(n)], [1 / 32768] * n


def furthest(got, want):
    assert [g.shape for g in got] == [w.shape for w in want]
    assert all(g.dtype == np.float32 for g in got)
    return max(float(np.abs(g - w).max()) for g, w in zip(got, want, strict=True))


@torch.inference_mode()
def embed(made, samples, rates, gains):
    return made.embed(samples, rates, gains)


def test_the_gpus_code_gives_what_the_cpu_gives():
    given_ = windows(27)
    assert furthest(embed(encoder(), *given_), ENGINE.embed(*given_)) < 1e-5


def test_gains_belong_to_their_windows():
    samples, rates, _ = windows(5)
    gains = [10.0**-k for k in range(5)]
    want = ENGINE.embed(samples, rates, gains)
    assert furthest(embed(encoder(), samples, rates, gains), want) < 1e-5


def test_buffers_are_filled_again_without_a_trace(monkeypatch):
    monkeypatch.setattr(gpu, "BATCH_TOKENS", 16)
    made, samples = encoder(), [counts(8000, i) for i in range(9)]
    first = embed(made, samples, [8000.0] * 9, [1e-4] * 9)
    assert furthest(first, ENGINE.embed(samples, [8000.0] * 9, [1e-4] * 9)) < 1e-5
    short = [counts(800, 9)]
    want = ENGINE.embed(short, [8000.0], [1e-4])
    assert furthest(embed(made, short, [8000.0], [1e-4]), want) < 1e-5


def test_nothing_in_nothing_out():
    assert embed(encoder(), [], [], []) == []


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_a_bucket_holds_its_windows_and_few_more(count, most):
    if count <= most:
        size = bucket(count, most)
        assert count <= size <= min(most, 2 * count - 1)


def test_few_bucket_sizes_serve_every_count():
    assert len({bucket(n, 2142) for n in range(1, 2143)}) == 13


SHAPE = Shape(16000.0, 16000, whole=True)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.integers(1, 64), st.integers(1, 64))
def test_out_of_memory_halves_the_batch_and_loses_nothing(count, most, fits):
    done, sizes = [], []

    def call(part):
        sizes.append(len(part))
        if len(part) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        done.extend(part)

    halving = Halving()
    halving.run(SHAPE, range(count), most, call)
    assert done == list(range(count))
    failed = [size for size in sizes if size > fits]
    assert len(failed) <= most.bit_length()
    halving.run(SHAPE, range(count), most, call)
    assert [size for size in sizes if size > fits] == failed  # learnt: it does not fail again


def test_a_failed_batch_of_the_network_comes_again_in_halves():
    limit, tried = 3, []

    def cramped(wave, rate):
        tried.append(len(wave))
        if len(wave) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return ENGINE._forward(wave, rate)

    samples = [counts(800, i) for i in range(8)]
    got = embed(
        GpuEncoder(cramped, ENGINE._tokens, ENGINE._tables, CPU), samples, [8000.0] * 8, [1e-4] * 8
    )
    assert furthest(got, ENGINE.embed(samples, [8000.0] * 8, [1e-4] * 8)) < 1e-5
    assert tried == [8, 4, 2, 2, 2, 2]


def test_a_window_that_never_fits_is_named():
    def full(_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(MemoryError, match=r"16000 samples at 16000 Hz .* device='cpu'"):
        Halving().run(SHAPE, range(5), 4, full)


def test_shapes_learn_their_limits_apart():
    halving, other, sizes = Halving(), SHAPE._replace(size=8000), []

    def call(part):
        sizes.append(len(part))
        if len(part) > 2 and len(sizes) < 3:
            raise torch.OutOfMemoryError("CUDA out of memory")

    halving.run(SHAPE, range(8), 8, call)
    sizes.clear()
    sizes.extend([0, 0, 0])
    halving.run(other, range(8), 8, call)
    assert sizes[3:] == [8]


@pytest.mark.parametrize(("shape", "dtype"), [((3, 7), torch.int16), ((2, 5), torch.float32)])
def test_staging_brings_samples_and_gains_whatever_their_sizes(shape, dtype):
    staging = Staging(CPU)
    for turn in range(5):
        want = torch.arange(shape[0] * shape[1]).view(shape).to(dtype) + turn

        def fill(samples, gains, want=want, turn=turn):
            samples.copy_(want)
            gains.fill_(turn)

        samples, gains = staging.send(shape, dtype, fill)
        assert torch.equal(samples, want)
        assert gains.shape == (shape[0], 1)
        assert float(gains.min()) == float(gains.max()) == turn
        staging.release()


# From here on a GPU is needed


def pair(precision="fp32"):
    model = Echo(EchoConfig(192, 4, 3), seed=5).eval()
    return EchoEngine(model), EchoEngine(model, device="cuda:0", precision=precision)


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "most"), [("fp32", 1e-4), ("bf16", 2e-2)])
def test_a_gpu_gives_what_the_cpu_gives(precision, most):
    ours, theirs = pair(precision)
    given_ = windows(54)
    for _ in range(3):  # plainly, recorded, replayed
        got, want = theirs.embed(*given_), ours.embed(*given_)
        if precision == "fp32":
            assert furthest(got, want) < most
        for g, w in zip(got, want, strict=True):
            assert np.linalg.norm(g - w) < most * np.linalg.norm(w)


@pytest.mark.gpu
def test_a_gpus_replayed_batches_follow_their_input():
    ours, theirs = pair()
    for seed in range(6):
        samples = [counts(16000, 10 * seed + i) for i in range(5)]
        got = theirs.embed(samples, [16000.0] * 5, [1 / 32768] * 5)
        assert furthest(got, ours.embed(samples, [16000.0] * 5, [1 / 32768] * 5)) < 1e-4


@pytest.mark.gpu
def test_a_gpu_that_runs_out_of_memory_goes_on():
    ours, theirs = pair()
    samples = [counts(16000, i) for i in range(64)]
    theirs.embed(samples[:1], [16000.0], [1 / 32768])
    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    used = torch.cuda.memory_reserved(0)
    torch.cuda.set_per_process_memory_fraction((used + 40e6) / total)
    try:
        got = theirs.embed(samples, [16000.0] * 64, [1 / 32768] * 64)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert theirs._gpu._halving._most[SHAPE] < 64
    assert furthest(got, ours.embed(samples, [16000.0] * 64, [1 / 32768] * 64)) < 1e-4


@pytest.mark.gpu
@pytest.mark.parametrize("value", [np.nan, np.float32(1e30)])
def test_a_gpu_names_the_bad_window(value):
    _, theirs = pair()
    samples = [counts(1000, 1), np.full(1000, value, np.float32) * np.hanning(1000)]
    with pytest.raises(ValueError, match=r"samples\[1\] must be"):
        theirs.embed(samples, [8000.0] * 2)


@pytest.mark.gpu
def test_a_gpus_recordings_outlive_the_tables_of_other_rates():
    ours, theirs = pair()
    first = [counts(8000, i) for i in range(3)]
    for rate in range(8000, 8300):
        for _ in range(2):
            theirs.embed(first, [8000.0] * 3, [1e-4] * 3)
        theirs.embed([counts(1000)], [float(rate)])
    got, want = (e.embed(first, [8000.0] * 3, [1e-4] * 3) for e in (theirs, ours))
    assert furthest(got, want) < 1e-4


@pytest.mark.gpu
def test_a_gpu_keeps_at_most_so_many_recordings(monkeypatch):
    monkeypatch.setattr(gpu, "GRAPHS", 3)
    _, theirs = pair()
    for _ in range(2):
        for size in range(1000, 2000, 100):
            theirs.embed([counts(size)] * 2, [8000.0] * 2)
    assert len(theirs._gpu._graphs) <= 3


@pytest.mark.gpu
def test_a_gpu_records_again_after_its_only_recording_went(monkeypatch, caplog):
    monkeypatch.setattr(gpu, "GRAPHS", 2)
    _, theirs = pair()
    for _ in range(2):
        for _ in range(2):  # recorded, then driven out by shapes that come once
            theirs.embed([counts(1000)] * 2, [8000.0] * 2)
        for size in (1100, 1200, 1300):
            theirs.embed([counts(size)] * 2, [8000.0] * 2)
    assert "without a CUDA graph" not in caplog.text
