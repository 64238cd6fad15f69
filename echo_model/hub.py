"""Ids of published checkpoints in, files on this machine out.

Through huggingface_hub (extra `hub`) and its cache: what is cached is used without asking the
network, so that a plant's model does not change under its baselines. `ID@REVISION` names a commit.
No digest of these files could be looked up when this was written, so none stands here: a file
is checked against the digest that the hub names it by, and against `sha256` where one is given.
"""

import logging
import re
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Published:
    """One file on the hub.

    Attributes:
        file: Its name in the repository.
        size: Name of its sizes in `checkpoints.CONFIGS`; another file is refused.
        revision: Commit, tag or branch where the id names none.
        sha256: Pinned digest, None where none is known.
    """

    file: str
    size: str
    revision: str = "main"
    sha256: str | None = None


PUBLISHED: dict[str, Published] = {
    "yucongzh/ECHO": Published("ECHO-small.pth", "small"),
    "yucongzh/echo-small-0824": Published("model.safetensors", "small"),
    "yucongzh/echo-tiny-0828": Published("model.safetensors", "tiny"),
}
"""File names as the repositories' own instructions give them."""
COMMIT = re.compile(r"[0-9a-f]{40}")
DIGEST = re.compile(r"[0-9a-f]{64}")


def published(name: str) -> Published | None:
    """The file of an id, with or without `@REVISION`; None for any other name."""
    return PUBLISHED.get(name.partition("@")[0])


def fetch(name: str) -> tuple[Path, str | None]:
    """File of a published id, from the cache or the hub, and the SHA-256 that it must have.

    Args:
        name: A key of `PUBLISHED`, or one with `@REVISION`.

    Raises:
        FileNotFoundError: Neither cached nor to be had: the extra is not installed, the network or
            the hub refuses, or `HF_HUB_OFFLINE` is set.
    """
    repo, _, asked = name.partition("@")
    known = PUBLISHED[repo]
    revision = asked or known.revision
    try:
        from httpx import HTTPError  # noqa: PLC0415  (comes with the hub's client)
        from huggingface_hub import errors, hf_hub_download  # noqa: PLC0415  (an extra)
    except ImportError as error:
        raise FileNotFoundError(
            "a published model needs huggingface_hub, which is not installed: "
            f"pip install 'echowatch[hub]', or {by_hand(known.file)}"
        ) from error
    try:
        try:
            path = hf_hub_download(repo, known.file, revision=revision, local_files_only=True)
        except errors.LocalEntryNotFoundError:
            path = hf_hub_download(repo, known.file, revision=revision)
    # huggingface_hub 1.16 retries a refused connection with a closed client: RuntimeError.
    except (OSError, ValueError, RuntimeError, errors.EntryNotFoundError, HTTPError) as error:
        raise FileNotFoundError(
            f"{known.file} of {repo} at {revision} is neither in the hub's cache nor could it be "
            f"fetched ({_why(error)}): {by_hand(known.file)}"
        ) from error
    return _checked(Path(path), name, known, asked=asked)


def _why(error: Exception) -> str:
    cause = type(error.__cause__ or error).__name__
    words = {"OfflineModeIsEnabled": "HF_HUB_OFFLINE is set", "RuntimeError": "no connection"}
    return words.get(cause, cause)


def by_hand(file: str) -> str:
    """What helps on a machine without network."""
    return (
        f"download {file} elsewhere, copy it here and give its path as the model "
        "(ECHOWATCH_MODEL, --model), see docs/models.md"
    )


def _checked(path: Path, name: str, known: Published, *, asked: str) -> tuple[Path, str | None]:
    """The cached file with its digest: the pinned one, or the one that the hub names it by."""
    commit, blob = path.parent.name, path.resolve().name
    if known.sha256 is None and not COMMIT.fullmatch(asked):
        logger.warning(
            "%s is whatever was published last when it was fetched: to keep it, name it %s@%s",
            name,
            name.partition("@")[0],
            commit if COMMIT.fullmatch(commit) else "REVISION",
        )
    if known.sha256 is not None and not asked:
        return path, known.sha256
    return path, blob if DIGEST.fullmatch(blob) else None
