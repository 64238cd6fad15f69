"""Batches of bands in, a loss out: masked teacher-student training, or masked reconstruction.

Teacher-student after ECHO, EAT and FISHER (arXiv 2508.14689, 2401.03497, 2507.16696): the student
sees a fifth to a quarter of a band's patches, a light convolutional decoder predicts what a moving
average of the student (the teacher) makes of the hidden ones, and the band's CLS token predicts the
mean of the teacher's band. Deviations: what the band's place in time and frequency alone predicts
is taken out of the targets first (else the network may settle for predicting positions); the CLS
target is normalised over bands, for the mean of an instance-normed band is nil.
"""

from copy import deepcopy
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812  (the field's name for it)
from torch import Tensor, nn

from echo_model.checkpoints import EchoConfig
from echo_model.echo import Echo, Run
from echo_model.pretrain.views import Batch

ObjectiveName = Literal["teacher-student", "mae"]
TargetNorm = Literal["instance", "batch"]
STATISTICS_DECAY = 0.99
RIDGE = 1e-3
# Directions with less than this share of the mean variance are damped, not blown up.
FLOOR = 0.05


class Losses(NamedTuple):
    """What one batch gives; all scalars but `cls`.

    Attributes:
        total: To be minimised.
        patch, band: Mean squared errors of the hidden patches and of the bands.
        target_std, prediction_std: Over bands, mean over channels, of the band targets and of
            their predictions: near 0 means collapse.
        cls: (B, D) CLS tokens of the student, one clone per band, without gradient.
    """

    total: Tensor
    patch: Tensor
    band: Tensor
    target_std: Tensor
    prediction_std: Tensor
    cls: Tensor


class Hidden(NamedTuple):
    """Which patches the student sees.

    Attributes:
        band: (S,) band of each of the student's rows (clones).
        kept: (S, k) patches it sees.
        masked: (S, P) True where it does not.
    """

    band: Tensor
    kept: Tensor
    masked: Tensor

    def to(self, device: torch.device) -> "Hidden":
        """The same on another device."""
        return Hidden(*(t.to(device) for t in self))


def hide(bands: int, patches: int, clones: int, kept: int, generator: torch.Generator) -> Hidden:
    """Draw the `kept` patches (at least one) that each of `clones` students of a band sees."""
    rows, kept = bands * clones, min(max(1, kept), patches)
    order = torch.rand(rows, patches, generator=generator).argsort(1)
    masked = torch.ones(rows, patches, dtype=torch.bool)
    masked.scatter_(1, order[:, :kept], False)  # noqa: FBT003  (torch's signature)
    return Hidden(torch.arange(bands).repeat(clones), order[:, :kept].sort(1).values, masked)


class Mixer(nn.Module):
    """One residual step of the decoder: a depthwise convolution over time, then across channels.

    Args:
        dim: Channels.
        kernel: Patches, odd.
    """

    def __init__(self, dim: int, kernel: int) -> None:
        super().__init__()
        self.taps = nn.Parameter(torch.full((kernel, dim), 1 / kernel))
        self.norm = nn.LayerNorm(dim)
        self.across = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(S, P, D) to (S, P, D)."""
        half, patches = len(self.taps) // 2, x.shape[1]
        filled = F.pad(x, (0, 0, half, half))
        # Shifted sums: at these sizes 8 x faster on a CPU than a grouped convolution.
        mixed = sum(filled[:, i : i + patches] * tap for i, tap in enumerate(self.taps))
        out: Tensor = x + F.gelu(self.across(self.norm(mixed)))
        return out


class Decoder(nn.Module):
    """Light convolutions over time from seen tokens and mask tokens to predictions.

    Args:
        dim: Width of a token.
        out: Width of a prediction.
        layers, kernel: Of the convolutions.
    """

    def __init__(self, dim: int, out: int, layers: int, kernel: int) -> None:
        super().__init__()
        self.mask = nn.Parameter(torch.zeros(dim))
        self.mixers = nn.ModuleList(Mixer(dim, kernel) for _ in range(layers))
        self.out = nn.Linear(dim, out)

    def forward(self, tokens: Tensor, hidden: Hidden, place: Tensor) -> Tensor:
        """Predict every patch.

        Args:
            tokens: (S, 1 + k, D) the student's output; its CLS token is given to every patch.
            hidden: Which patches those are.
            place: (1, P, D) time positions.

        Returns:
            (S, P, out).
        """
        rows, patches = hidden.masked.shape
        index = hidden.kept[..., None].expand(-1, -1, tokens.shape[-1])
        mask = self.mask.to(tokens.dtype).expand(rows, patches, -1)
        x = mask.scatter(1, index, tokens[:, 1:]) + place + tokens[:, :1]
        for mixer in self.mixers:
            x = mixer(x)
        out: Tensor = self.out(x)
        return out


def all_layers(model: Echo, patches: Tensor, codes: Tensor) -> list[Tensor]:
    """Every layer's patch tokens, (B, P, D) each: what the teacher makes of whole bands."""
    run = Run(patches.shape[0], 1 + patches.shape[1])
    x = place(model, patches, codes, model.pos_embed[:, 1 : run.tokens]).flatten(0, 1)
    layers = []
    for block in model.encoder.blocks():
        x = block(x, [run])
        layers.append(x.view(run.bands, run.tokens, -1)[:, 1:])
    return layers


def place(model: Echo, patches: Tensor, codes: Tensor, positions: Tensor) -> Tensor:
    """Input tokens (B, 1 + k, D) of the patches (B, k, 512) at the given time positions."""
    tokens = model.patch_embed(patches) + positions + codes[:, None]
    return torch.cat([model.cls_token + codes[:, None], tokens], dim=1)


def seen(model: Echo, batch: Batch, hidden: Hidden) -> Tensor:
    """The student's output tokens: (S, 1 + k, D)."""
    patches = batch.noisy[hidden.band[:, None], hidden.kept]
    positions = model.pos_embed[0][1 + hidden.kept]
    tokens = place(model, patches, batch.codes[hidden.band], positions)
    run = Run(tokens.shape[0], tokens.shape[1])
    out: Tensor = model.norm(model.encoder(tokens.flatten(0, 1), [run]))
    return out.view(run.bands, run.tokens, -1)


class Whitener(nn.Module):
    """Takes out what position alone predicts, then gives the rest a variance of 1.

    Least squares on moving averages of the moments, so that a batch cannot fit itself. Channel by
    channel, the level of a signal (by far its strongest feature) would be in all channels and thus
    most of the loss; `full` turns the channels so that each principal direction counts once.

    Args:
        dim: Channels.
        known: Width of the position input.
        full: Decorrelate the channels, directions far below the mean variance damped.

    Attributes:
        content: Standard deviation that position does not explain, mean over channels.
    """

    moments: Tensor
    count: Tensor

    def __init__(self, dim: int, known: int, *, full: bool) -> None:
        super().__init__()
        size = known + 1 + dim
        self.known, self.full = known + 1, full
        self.content = torch.zeros(())
        self.register_buffer("moments", torch.zeros(size, size, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def forward(self, y: Tensor, position: Tensor) -> Tensor:
        """(N, dim) given (N, known) to residuals of variance 1 at most."""
        z = torch.cat([torch.ones_like(position[:, :1]), position], dim=1).double()
        both = torch.cat([z, y.double()], dim=1)
        keep = STATISTICS_DECAY
        self.moments.lerp_(both.T @ both / len(both), 1 - keep)
        self.count.mul_(keep).add_(1 - keep)
        m, k = self.moments / self.count, self.known
        zz = m[:k, :k] + RIDGE * torch.eye(k, dtype=m.dtype, device=m.device)
        weights = torch.linalg.solve(zz, m[:k, k:])  # (known, dim)
        rest = m[k:, k:] - weights.T @ m[:k, k:]
        self.content = rest.diagonal().clamp_min(0).sqrt().mean().to(y.dtype)
        residual = y - z @ weights
        out: Tensor = residual @ self._scale((rest + rest.T) / 2)
        return out.to(y.dtype)

    def _scale(self, cov: Tensor) -> Tensor:
        if not self.full:
            return cov.diagonal().clamp_min(1e-8).rsqrt().diag()
        values, vectors = torch.linalg.eigh(cov)
        values = values.clamp_min(0)
        size = (values + FLOOR * values.mean() + 1e-12).rsqrt()
        turned: Tensor = (vectors * size) @ vectors.T
        return turned


def _losses(
    predicted: Tensor,
    patch_target: Tensor,
    guessed: Tensor,
    band_target: Tensor,
    hidden: Hidden,
    tokens: Tensor,
    spread: Tensor,
    band_weight: float,
) -> Losses:
    error = (predicted - patch_target[hidden.band]).square().mean(-1)
    patch = (error * hidden.masked).sum() / hidden.masked.sum().clamp_min(1)
    band = (guessed - band_target[hidden.band]).square().mean()
    bands = len(band_target)
    return Losses(
        patch + band_weight * band,
        patch.detach(),
        band.detach(),
        spread,
        guessed[:bands].detach().std(0).mean(),
        tokens[:bands, 0].detach(),
    )


class TeacherStudent(nn.Module):
    """The first objective.

    Args:
        config: Sizes of the encoder.
        seed: Of its initial weights.
        layers: Top layers whose mean is the target.
        norm: Over what a layer's patch tokens are normalised: a band in time, or the batch.
        full: Decorrelate the targets.
        decoder: Layers and kernel.
        band_weight: Of the band-level loss.
    """

    def __init__(
        self,
        config: EchoConfig,
        seed: int,
        *,
        layers: int,
        norm: TargetNorm,
        full: bool,
        decoder: tuple[int, int],
        band_weight: float,
    ) -> None:
        super().__init__()
        self.student = Echo(config, seed=seed)
        self.teacher = deepcopy(self.student).requires_grad_(requires_grad=False)
        self.layers, self.norm, self.band_weight = layers, norm, band_weight
        dim = config.embed_dim
        self.decoder = Decoder(dim, dim, *decoder)
        self.head = nn.Linear(dim, dim)
        self.patch_targets = Whitener(dim, 2 * dim, full=full)
        self.band_targets = Whitener(dim, dim, full=full)

    @torch.no_grad()
    def targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What is to be predicted: (B, P, D) of the patches and (B, D) of the bands."""
        outputs = all_layers(self.teacher, batch.clean, batch.codes)[-self.layers :]
        total = torch.zeros_like(outputs[0])
        whole = torch.zeros_like(outputs[0][:, 0])
        for out in outputs:
            whole += out.mean(1)
            if self.norm == "instance" and out.shape[1] > 1:
                out = out - out.mean(1, keepdim=True)  # noqa: PLW2901  (the normed output)
                out = out / (out.square().mean(1, keepdim=True) + 1e-5).sqrt()  # noqa: PLW2901  (the same)
            total += out
        bands, patches, dim = total.shape
        time = self.teacher.pos_embed[:, 1 : 1 + patches].expand(bands, -1, -1)
        position = torch.cat([batch.codes[:, None].expand(-1, patches, -1), time], dim=2)
        patch = self.patch_targets(total.flatten(0, 1), position.flatten(0, 1))
        return patch.view(bands, patches, dim), self.band_targets(whole, batch.codes)

    def forward(self, batch: Batch, hidden: Hidden) -> Losses:
        """Losses of a batch."""
        patch_target, band_target = self.targets(batch)
        tokens = seen(self.student, batch, hidden)
        positions = self.student.pos_embed[:, 1 : 1 + batch.clean.shape[1]]
        predicted = self.decoder(tokens, hidden, positions)
        spread = self.band_targets.content / self.layers
        return _losses(
            predicted,
            patch_target,
            self.head(tokens[:, 0]),
            band_target,
            hidden,
            tokens,
            spread,
            self.band_weight,
        )


class MaskedAutoencoder(nn.Module):
    """The second objective: predict the clean log spectrum itself.

    Hidden patches are predicted relative to their band's mean and spread, the CLS token predicts
    the mean and spread over time of every bin.

    Args:
        config: Sizes of the encoder.
        seed: Of its initial weights.
        full: Decorrelate the band targets.
        decoder: Layers and kernel.
        band_weight: Of the band-level loss.
    """

    def __init__(
        self,
        config: EchoConfig,
        seed: int,
        *,
        full: bool,
        decoder: tuple[int, int],
        band_weight: float,
    ) -> None:
        super().__init__()
        self.student = Echo(config, seed=seed)
        self.teacher = deepcopy(self.student).requires_grad_(requires_grad=False)
        self.band_weight = band_weight
        self.width, self.frames = config.band_width, config.patch_frames
        dim = config.embed_dim
        self.decoder = Decoder(dim, self.width * self.frames, *decoder)
        self.head = nn.Linear(dim, 2 * self.width)
        self.band_targets = Whitener(2 * self.width, dim, full=full)

    @torch.no_grad()
    def targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What is to be predicted: (B, P, bins * frames) and (B, 2 * bins)."""
        clean = batch.clean
        mean = clean.mean((1, 2), keepdim=True)
        spread = (clean - mean).square().mean((1, 2), keepdim=True).sqrt()
        rows = clean.view(*clean.shape[:2], self.width, self.frames).transpose(1, 2).flatten(2)
        profile = torch.cat([rows.mean(2), rows.std(2)], dim=1)
        return (clean - mean) / (spread + 1e-3), self.band_targets(profile, batch.codes)

    def forward(self, batch: Batch, hidden: Hidden) -> Losses:
        """Losses of a batch."""
        patch_target, band_target = self.targets(batch)
        tokens = seen(self.student, batch, hidden)
        positions = self.student.pos_embed[:, 1 : 1 + batch.clean.shape[1]]
        predicted, guessed = self.decoder(tokens, hidden, positions), self.head(tokens[:, 0])
        spread = self.band_targets.content
        return _losses(
            predicted, patch_target, guessed, band_target, hidden, tokens, spread, self.band_weight
        )


@torch.no_grad()
def follow(objective: TeacherStudent | MaskedAutoencoder, decay: float) -> None:
    """Move the averaged weights, which are the teacher and what is released, to the student."""
    ours: list[Tensor] = list(objective.teacher.parameters())
    theirs: list[Tensor] = list(objective.student.parameters())
    torch._foreach_lerp_(ours, theirs, 1 - decay)
