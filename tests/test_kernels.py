"""The engine's attention and layers give what the network's own modules give."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from echo_model import features, kernels
from echo_model.checkpoints import EchoConfig
from echo_model.echo import Echo, Run
from echo_model.kernels import Layer, Placement, attend, own_band

torch.set_num_threads(1)
CPU = torch.device("cpu")


def plain(qkv, run, heads):
    """Attention of one band and head after another, queries already scaled."""
    q, k, v = qkv.view(*run, 3, heads, -1).unbind(2)
    weights = torch.einsum("bqhd,bkhd->bhqk", q, k).softmax(-1)
    return torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2).flatten(0, 1)


def attended(qkv, run, heads):
    return attend(qkv, qkv, [run], heads)


def tokens(bands, length, heads=3, width=8, seed=0):
    made = torch.Generator().manual_seed(seed)
    return torch.randn(bands * length, 3 * heads * width, generator=made)


@pytest.fixture(params=[1, 2, 3])
def _threads(request):
    """One thread: compiled; two: for short bands; three: torch computes."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


WIDTHS = st.sampled_from([8, 16, 32])
ANY = [HealthCheck.function_scoped_fixture]


@pytest.mark.usefixtures("_threads")
@settings(max_examples=60, deadline=None, suppress_health_check=ANY)
@given(st.integers(1, 40), st.integers(2, 40), st.integers(1, 4), WIDTHS, st.integers(0, 99))
def test_attention_is_that_of_each_band_alone(bands, length, heads, width, seed):
    qkv, run = tokens(bands, length, heads, width, seed), Run(bands, length)
    assert torch.allclose(attended(qkv, run, heads), plain(qkv, run, heads), atol=1e-5)


@pytest.mark.usefixtures("_threads")
@settings(max_examples=30, deadline=None, suppress_health_check=ANY)
@given(st.integers(1, 20), st.integers(2, 40), WIDTHS, st.integers(0, 99))
def test_bf16_attention_is_close(bands, length, width, seed):
    qkv, run = tokens(bands, length, width=width, seed=seed), Run(bands, length)
    qkv[:, : 3 * width] *= width**-0.5
    got = attended(qkv.to(torch.bfloat16), run, 3).to(torch.float32)
    assert torch.allclose(got, plain(qkv, run, 3), atol=0.1)


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("width", [8, 32])
@pytest.mark.parametrize("length", [2, 3, 5, 8])
def test_neighbours_change_nothing(length, width):
    assert kernels.GROUP_TOKENS // length >= 2
    qkv, run = tokens(9, length, width=width), Run(9, length)
    other = qkv.clone()
    other[length:] = 50 * torch.randn(8 * length, qkv.shape[1])
    assert torch.equal(attended(qkv, run, 3)[:length], attended(other, run, 3)[:length])


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("length", range(2, 9))
def test_a_band_rounds_the_same_whatever_its_place_and_company(length):
    qkv = tokens(17, length, width=32)
    whole = attended(qkv, Run(17, length), 3).view(17, length, -1)
    for first, bands in ((0, 1), (1, 1), (3, 2), (2, 5), (7, 10)):
        part = qkv[first * length : (first + bands) * length].contiguous()
        alone = attended(part, Run(bands, length), 3).view(bands, length, -1)
        assert torch.equal(alone, whole[first : first + bands])


@pytest.mark.parametrize(
    ("count", "length", "dtype", "compiles"),
    [
        (1, 126, torch.float32, True),
        (1, 24, torch.bfloat16, True),
        (1, 25, torch.bfloat16, False),
        (2, 16, torch.float32, True),
        (2, 17, torch.float32, False),
        (3, 2, torch.float32, False),
    ],
)
def test_one_compiled_thread_works_where_it_beats_all_of_torch(
    monkeypatch, count, length, dtype, compiles
):
    done = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: count)
    monkeypatch.setattr(kernels.compiled, "attention", lambda *_: done.append("attention"))
    monkeypatch.setattr(kernels.compiled, "add_norm", lambda x, *_: done.append("norm") or x)
    qkv = tokens(2, length, width=16).to(dtype)
    attended(qkv, Run(2, length), 3)
    norm = kernels.Norm(torch.nn.LayerNorm(48), Placement(CPU, torch.float32, packed=False))
    norm.add(torch.ones(2, 48), torch.ones(2, 48))
    assert done == ["attention"] * compiles + ["norm"] * (count < 3)


def test_a_group_attends_inside_bands_only():
    assert own_band(2, 2, torch.float32).tolist() == [
        [0, 0, -torch.inf, -torch.inf],
        [0, 0, -torch.inf, -torch.inf],
        [-torch.inf, -torch.inf, 0, 0],
        [-torch.inf, -torch.inf, 0, 0],
    ]


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("packed", [False, kernels.packs_weights(CPU)])
@torch.inference_mode()
def test_a_layer_is_that_of_the_network(*, packed):
    net = Echo(EchoConfig(48, 1, 3), seed=2).eval()
    block, runs = net.encoder.blocks()[0], [Run(5, 8), Run(3, 4), Run(2, 30)]
    x = torch.randn(5 * 8 + 3 * 4 + 2 * 30, 48)
    place, want = Placement(CPU, torch.float32, packed), block(x, runs)
    assert torch.allclose(Layer(block, place, last=False)(x, runs), want, atol=1e-5)
    cls = torch.cat([want[:40:8], want[40:52:4], want[52::30]])
    assert torch.allclose(Layer(block, place, last=True).cls_only(x, runs), cls, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([100.0, 2560.0, 8000.0, 11025.0, 16000.0]),
    st.integers(1, 70),
    st.sampled_from(["pad", "drop", "overlap"]),
)
def test_patches_are_the_published_ones_with_time_first(rate, frames, last_band):
    n_bins = features.frame_sizes(rate)[0] // 2 + 1
    last_band = "pad" if n_bins < 32 else last_band
    spec, bins = torch.randn(2, n_bins, frames), features.band_bins(n_bins, 32, last_band)
    want = features.to_patches(features.split_bands(spec, bins, 32), 16)
    got = features.frame_patches(spec.transpose(1, 2), bins, 32, 16, torch.float32)
    assert torch.equal(got.unflatten(-1, (16, 32)).transpose(-1, -2).flatten(-2), want)
