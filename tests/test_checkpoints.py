"""Checkpoints load strictly or not at all."""

import hashlib
import logging
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from echo_model import checkpoints
from echo_model.checkpoints import EchoConfig
from echo_model.echo import Echo

SIZES = EchoConfig(64, 1, 1)

torch.set_num_threads(1)


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    return Echo(SIZES, seed=7).state_dict()


def same(net: Echo, weights: dict[str, torch.Tensor]) -> bool:
    state = net.state_dict()
    return state.keys() == weights.keys() and all(
        torch.equal(state[name], weights[name]) for name in weights
    )


def test_saved_weights_come_back(tmp_path: Path) -> None:
    net = Echo(SIZES, seed=3)
    digest = net.save(tmp_path / "echo.safetensors")
    back = Echo.from_pretrained(tmp_path / "echo.safetensors", sha256=digest.upper())
    assert same(back, net.state_dict())
    assert back.trained
    assert back.sha256 == digest
    assert back.config == SIZES
    assert back.model_id == f"echo-d64l1-{digest[:8]}"
    assert not back.training


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
@pytest.mark.parametrize("nested", [False, True])
def test_published_torch_layouts_load(
    tmp_path: Path, weights: dict[str, torch.Tensor], suffix: str, *, nested: bool
) -> None:
    path = tmp_path / f"echo{suffix}"
    torch.save({"encoder": weights, "epoch": 3} if nested else weights, path)
    assert same(Echo.from_pretrained(str(path)), weights)


def test_shapes_decide_the_sizes(tmp_path: Path) -> None:
    sizes = EchoConfig(128, 2, 2, band_width=16, patch_frames=8, spec_len=1024)
    Echo(sizes).save(tmp_path / "odd.safetensors")
    assert Echo.from_pretrained(tmp_path / "odd.safetensors").config == sizes


class Bomb:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("exploded"),)


def test_pickles_are_never_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"encoder": Bomb()}, tmp_path / "bomb.pth")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Bomb(), protocol=2))
    for name in ("bomb.pth", "raw.pth"):
        with pytest.raises(ValueError, match="plain tensors") as refused:
            Echo.from_pretrained(tmp_path / name)
        assert "weights_only" not in str(refused.value)  # torch advises to run it after all
    assert not Path("exploded").exists()


def test_damaged_files_are_named(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    checkpoints.save_weights(weights, tmp_path / "a.safetensors")
    torch.save(weights, tmp_path / "a.pth")
    for name in ("a.safetensors", "a.pth"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:-500])
        with pytest.raises(ValueError, match=name):
            Echo.from_pretrained(path)
        path.write_bytes(b"")
        with pytest.raises(ValueError, match=name):
            Echo.from_pretrained(path)


def test_a_pinned_digest_is_enforced(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "echo.pth"
    torch.save(weights, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert Echo.from_pretrained(path, sha256=digest).sha256 == digest
    with pytest.raises(ValueError, match=f"got {digest}"):
        Echo.from_pretrained(path, sha256="0" * 64)


def test_the_digest_is_logged(
    tmp_path: Path, weights: dict[str, torch.Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    digest = checkpoints.save_weights(weights, tmp_path / "echo.safetensors")
    with caplog.at_level(logging.INFO, "echo_model.checkpoints"):
        Echo.from_pretrained(tmp_path / "echo.safetensors")
    assert digest in caplog.text


def spoil_missing(weights: dict[str, torch.Tensor]) -> None:
    del weights["encoder.layers.0.norm2.bias"]


def spoil_extra(weights: dict[str, torch.Tensor]) -> None:
    weights["decoder.weight"] = torch.zeros(2)


def spoil_shape(weights: dict[str, torch.Tensor]) -> None:
    weights["norm.weight"] = torch.ones(65)


def spoil_values(weights: dict[str, torch.Tensor]) -> None:
    weights["cls_token"] = torch.full((1, 1, 64), float("nan"))


def spoil_all(weights: dict[str, torch.Tensor]) -> None:
    weights.clear()
    weights["conv1.weight"] = torch.zeros(3)


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (spoil_missing, r"missing \['encoder.layers.0.norm2.bias'\]"),
        (spoil_extra, r"unexpected \['decoder.weight'\]"),
        (spoil_shape, r"norm.weight must be \(64,\), got \(65,\)"),
        (spoil_values, "cls_token must be finite"),
        (spoil_all, "an ECHO checkpoint must hold"),
    ],
)
def test_anything_but_the_exact_weights_is_refused(
    tmp_path: Path, weights: dict[str, torch.Tensor], spoil: Any, text: str
) -> None:
    changed = dict(weights)
    spoil(changed)
    torch.save(changed, tmp_path / "echo.pth")
    with pytest.raises(ValueError, match=text):
        Echo.from_pretrained(tmp_path / "echo.pth")


def test_a_file_without_tensors_is_refused(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="got list"):
        Echo.from_pretrained(tmp_path / "list.pth")


def test_another_head_count_must_be_forced() -> None:
    with pytest.raises(ValueError, match="num_heads must be 6 for embed_dim 384, got 12"):
        checkpoints.named_config("small", num_heads=12)
    forced = Echo.from_pretrained("untrained:nano", num_heads=6, force_heads=True)
    assert forced.model_id == "echo-nano-h6-untrained-s0"
    known = Echo.from_pretrained("untrained:nano", num_heads=3)
    assert known.model_id == "echo-nano-untrained-s0"


def test_untrained_before_a_name_gives_its_initial_weights() -> None:
    for name, config in checkpoints.CONFIGS.items():
        if config.embed_dim <= 192:
            net = Echo.from_pretrained(f"untrained:{name}")
            assert same(net, Echo(config).state_dict())
            assert not net.trained
    with pytest.raises(FileNotFoundError, match="got 'untrained:tniy'"):
        Echo.from_pretrained("untrained:tniy")


def test_a_width_without_a_rule_needs_a_head_count(tmp_path: Path) -> None:
    Echo(EchoConfig(48, 1, 3)).save(tmp_path / "odd.safetensors")
    with pytest.raises(ValueError, match="must be given for embed_dim 48"):
        Echo.from_pretrained(tmp_path / "odd.safetensors")
    net = Echo.from_pretrained(tmp_path / "odd.safetensors", num_heads=3, force_heads=True)
    assert net.config.num_heads == 3


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"parity": True}, "-parity-"),
        ({"last_band": "overlap"}, "-overlap-"),
        ({"final_norm_eps": 1e-6}, "-eps1e-06-"),
    ],
)
def test_whatever_changes_numbers_changes_the_model_id(options: Any, part: str) -> None:
    assert part in Echo.from_pretrained("nano", **options).model_id


def test_published_names_have_published_sizes() -> None:
    sizes = {n: (c.embed_dim, c.depth, c.num_heads) for n, c in checkpoints.CONFIGS.items()}
    assert sizes == {
        "nano": (96, 6, 3),
        "tiny": (192, 12, 3),
        "small": (384, 12, 6),
        "base": (768, 12, 12),
        "large": (1024, 24, 16),
    }
    for dim, _, heads in sizes.values():
        assert checkpoints.published_heads(dim) == heads


def test_unknown_options_are_never_dropped() -> None:
    with pytest.raises(TypeError, match="spec_len"):
        Echo.from_pretrained("nano", spec_len=1024)  # type: ignore[call-arg]


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(FileNotFoundError, match=r"'large', 'nano', 'small', 'tiny'.*got 'tniy'"):
        Echo.from_pretrained("tniy")


def test_a_digest_for_a_name_without_a_file_is_refused() -> None:
    with pytest.raises(ValueError, match="it has no file"):
        Echo.from_pretrained("untrained:nano", sha256="0" * 64)


def test_shipped_weights_match_their_pin() -> None:
    for name, (_, digest) in checkpoints.SHIPPED.items():
        net = Echo.from_pretrained(name)
        assert net.sha256 == digest
        assert net.model_id == f"echo-{name}-{digest[:8]}"


def test_a_shipped_name_loads_its_pinned_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = Echo(SIZES).save(tmp_path / "mine.safetensors")
    monkeypatch.setattr(checkpoints, "WEIGHTS_DIR", tmp_path)
    monkeypatch.setattr(checkpoints, "SHIPPED", {"mine": ("mine.safetensors", digest)})
    assert Echo.from_pretrained("mine").sha256 == digest
    monkeypatch.setattr(checkpoints, "SHIPPED", {"mine": ("mine.safetensors", "0" * 64)})
    with pytest.raises(ValueError, match="must have SHA-256 000"):
        Echo.from_pretrained("mine")


def test_saving_elsewhere_than_safetensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must end in .safetensors, got 'a.pth'"):
        Echo(SIZES).save(tmp_path / "a.pth")
