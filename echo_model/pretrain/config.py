"""A YAML file in, the checked recipe of a pre-training run out.

Every table of the file is one dataclass here; unknown names, wrong types and values out of range
are refused with what is allowed.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml

from echo_model.checkpoints import CONFIGS, EchoConfig
from echo_model.pretrain.views import Views


@dataclass(frozen=True, slots=True)
class ModelTable:
    """Sizes of the encoder: a known name, or width, depth and heads."""

    name: str = "nano"
    embed_dim: int = 0
    depth: int = 0
    num_heads: int = 0

    def __post_init__(self) -> None:
        if not self.embed_dim and self.name not in CONFIGS:
            raise ValueError(
                f"model.name must be one of {sorted(CONFIGS)}, got {self.name!r}: name a known "
                "size, or give embed_dim, depth and num_heads"
            )

    def sizes(self) -> EchoConfig:
        """The encoder's sizes."""
        if not self.embed_dim:
            return CONFIGS[self.name]
        return EchoConfig(self.embed_dim, self.depth, self.num_heads)


@dataclass(frozen=True, slots=True)
class BatchTable:
    """How much a step sees."""

    tokens: int = 1024
    clones: int = 4
    repeat: int = 2
    keep: tuple[float, float] = (0.2, 0.25)
    whole: float = 0.0

    def __post_init__(self) -> None:
        _at_least("batch", self, tokens=8, clones=1, repeat=1)
        if not 0 <= self.whole <= 1:
            raise ValueError(f"batch.whole must lie in 0..1, got {self.whole}")
        if not 0 < self.keep[0] <= self.keep[1] <= 1:
            raise ValueError(f"batch.keep must be two shares in (0, 1], low first, got {self.keep}")


@dataclass(frozen=True, slots=True)
class OptimiserTable:
    """AdamW, warm-up, a constant rate, and a linear decay at the end."""

    rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.05
    clip: float = 1.0
    warmup_steps: int = 500
    decay_share: float = 0.2

    def __post_init__(self) -> None:
        if not self.rate > 0:
            raise ValueError(f"optimiser.rate must be positive, got {self.rate}")
        if not 0 <= self.decay_share <= 1:
            raise ValueError(f"optimiser.decay_share must lie in 0..1, got {self.decay_share}")


@dataclass(frozen=True, slots=True)
class TeacherTable:
    """The moving average, and what of it is predicted."""

    decay: tuple[float, float] = (0.998, 0.9995)
    decay_steps: int = 5000
    layers: int = 6
    norm: str = "batch"
    decorrelate: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.decay[0] <= self.decay[1] < 1:
            raise ValueError(f"teacher.decay must be two numbers in [0, 1), got {self.decay}")
        if self.norm not in ("instance", "batch"):
            raise ValueError(f"teacher.norm must be instance or batch, got {self.norm!r}")
        _at_least("teacher", self, decay_steps=1, layers=1)


@dataclass(frozen=True, slots=True)
class LossTable:
    """Decoder and weights of the losses."""

    decoder_layers: int = 2
    decoder_kernel: int = 3
    band_weight: float = 1.0

    def __post_init__(self) -> None:
        _at_least("loss", self, decoder_layers=0, decoder_kernel=1)
        if self.decoder_kernel % 2 == 0:
            raise ValueError(f"loss.decoder_kernel must be odd, got {self.decoder_kernel}")


@dataclass(frozen=True, slots=True)
class SourceTable:
    """One source of signals.

    Attributes:
        kind: `recordings` (a folder with index.csv) or `simulated`.
        weight: Its share of the clips, relative to the others.
        licence: Of all its clips, where their rows state none.
        credit: For the model card.
        path: Of the folder, relative to the data folder; recordings only.
        include: Beginnings of the files to take.
        pool, fresh: Simulated machines at a time, and new ones per batch.
        use: False leaves the source out.
    """

    name: str
    kind: str
    weight: float
    licence: str
    credit: str = ""
    path: str = ""
    include: tuple[str, ...] = ()
    pool: int = 256
    fresh: float = 1.0
    use: bool = True

    def __post_init__(self) -> None:
        if self.kind not in ("recordings", "simulated"):
            raise ValueError(
                f"sources.{self.name}.kind must be recordings or simulated, got {self.kind!r}"
            )
        if self.kind == "recordings" and not self.path:
            raise ValueError(f"sources.{self.name}.path must name a folder, got nothing")
        if not self.weight > 0:
            raise ValueError(
                f"sources.{self.name}.weight must be positive, got {self.weight}: "
                "write `use: false` to leave a source out"
            )
        _at_least(f"sources.{self.name}", self, pool=1)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides what a run computes; the number of steps may be changed later."""

    sources: tuple[SourceTable, ...]
    name: str = "nano"
    objective: str = "teacher-student"
    seed: int = 1
    steps: int = 100_000
    precision: str = "fp32"
    cache_mb: int = 1024
    log_every: int = 50
    model: ModelTable = field(default_factory=ModelTable)
    batch: BatchTable = field(default_factory=BatchTable)
    views: Views = field(default_factory=Views)
    optimiser: OptimiserTable = field(default_factory=OptimiserTable)
    teacher: TeacherTable = field(default_factory=TeacherTable)
    loss: LossTable = field(default_factory=LossTable)

    def __post_init__(self) -> None:
        if self.objective not in ("teacher-student", "mae"):
            raise ValueError(f"objective must be teacher-student or mae, got {self.objective!r}")
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(f"precision must be fp32 or bf16, got {self.precision!r}")
        _at_least("recipe", self, seed=0, steps=1, cache_mb=1, log_every=1)
        if not any(source.use for source in self.sources):
            raise ValueError("sources must hold at least one with use: true, got none")

    def digest(self) -> str:
        """SHA-256 of all that must not change when a run is resumed."""
        table = asdict(self)
        for free in ("steps", "cache_mb", "log_every"):
            table.pop(free)
        return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()


def shipped_recipe(name: str) -> Path | None:
    """The recipe of that name in the package, None where there is none."""
    path = Path(__file__).parent / f"pretrain_{name}.yaml"
    return path if name.isidentifier() and path.is_file() else None


def load_recipe(path: Path) -> Recipe:
    """The recipe in a YAML file.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Not YAML, an unknown or missing name, a wrong type or value.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"the configuration must be a YAML file, got {path}: no such file; "
            "`echowatch pretrain nano` takes the shipped one"
        )
    try:
        table = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} must be YAML, got: {error}") from error
    try:
        recipe = _read(Recipe, table, "")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    assert isinstance(recipe, Recipe)  # noqa: S101  (for the type checker)
    return recipe


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML, every value spelled out."""
    return yaml.safe_dump(json.loads(json.dumps(asdict(recipe))), sort_keys=False)


def _read(kind: Any, value: Any, at: str) -> Any:
    """`value` as the dataclass, tuple or number `kind`; `at` names it in errors."""
    if hasattr(kind, "__dataclass_fields__"):
        return _read_table(kind, value, at)
    if get_origin(kind) is tuple:
        return _read_list(kind, value, at)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is float and isinstance(value, str):
        return _number(value, at)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{at} must be {_KINDS[kind]}, got {value!r}")
    return value


def _number(text: str, at: str) -> float:
    """YAML 1.1 reads 1e-3 as text."""
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{at} must be a number, got {text!r}") from None


def _read_table(kind: Any, value: Any, at: str) -> Any:
    if not isinstance(value, Mapping):
        raise ValueError(  # noqa: TRY004  (a mistake in a file, not in the code)
            f"{at or 'the file'} must be a table of names and values, got {value!r}"
        )
    types, known = get_type_hints(kind), {f.name: f for f in fields(kind)}
    for name in value:
        if name not in known:
            near = get_close_matches(str(name), known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{_join(at, name)} is unknown, allowed are {sorted(known)}{hint}")
    needed = [
        n
        for n, f in known.items()
        if f.default is MISSING and f.default_factory is MISSING and n not in value
    ]
    if needed:
        raise ValueError(f"{at or 'the file'} must name {needed}, got {sorted(value)}")
    return kind(**{n: _read(types[n], v, _join(at, n)) for n, v in value.items()})


def _read_list(kind: Any, value: Any, at: str) -> Any:
    inner = get_args(kind)
    if not isinstance(value, list | tuple):
        raise ValueError(  # noqa: TRY004  (a mistake in a file, not in the code)
            f"{at} must be a list, got {value!r}"
        )
    if inner[-1] is Ellipsis:
        return tuple(_read(inner[0], item, f"{at}[{i}]") for i, item in enumerate(value))
    if len(value) != len(inner):
        raise ValueError(f"{at} must hold {len(inner)} values, got {value!r}")
    pairs = zip(inner, value, strict=True)
    return tuple(_read(k, item, f"{at}[{i}]") for i, (k, item) in enumerate(pairs))


def _join(at: str, name: object) -> str:
    return f"{at}.{name}" if at else str(name)


def _at_least(at: str, table: Any, **lowest: int) -> None:
    for name, least in lowest.items():
        if getattr(table, name) < least:
            raise ValueError(f"{at}.{name} must be at least {least}, got {getattr(table, name)}")


_KINDS = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
}
