"""Recordings on disk in, sensor chunks out: one reader per format."""

from connectors.files.open import Source, describe, discover, read
from connectors.files.recording import (
    ChannelInfo,
    Description,
    ReadError,
    ReadOptions,
)

__all__ = [
    "ChannelInfo",
    "Description",
    "ReadError",
    "ReadOptions",
    "Source",
    "describe",
    "discover",
    "read",
]
