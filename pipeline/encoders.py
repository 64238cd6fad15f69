"""Settings in; the encoder that they name, out."""

import os

import torch

from echo_model.echo import Echo
from echo_model.engine import EchoEngine
from pipeline.memory import keep_memory
from pipeline.settings import Settings

# A checkpoint that does not fit lists hundreds of names; the first lines say it all.
MAX_MODEL_ERROR = 400


class ModelError(ValueError):
    """An encoder that cannot be had, in words."""


def load_engine(settings: Settings) -> EchoEngine:
    """The encoder that the settings name.

    Raises:
        ModelError: for an unknown name, a damaged or wrong file, or a device that is not there.
    """
    keep_memory()
    torch.set_num_threads(settings.threads or os.cpu_count() or 1)
    try:
        model = Echo.from_pretrained(settings.model, sha256=settings.model_sha256)
    except (ValueError, OSError) as error:
        # The first sentence says what is wrong; torch goes on with advice that nobody should take.
        text = str(error).strip().splitlines()[0].split(". ")[0][:MAX_MODEL_ERROR]
        raise ModelError(f"model {settings.model!r}: {text}") from error
    try:
        return EchoEngine(model, device=settings.device, precision=settings.precision)
    except ValueError as error:
        raise ModelError(str(error)) from error
