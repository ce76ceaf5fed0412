"""Weights of scorers from huggingface.co, where the user allows it; only safetensors and small texts are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from library.errors import ModelError


def fetch(repository: str, files: Sequence[str], folder: Path, what: str) -> None:
    """Downloads the files that a scorer needs into its folder.

    Args:
        repository: its id on the hub.
        what: asks for it, for messages.

    Raises:
        ModelError: it is not there, not in this form, or the hub can't be reached.
    """
    from huggingface_hub import constants, errors, snapshot_download

    by_hand = f"hf download {repository} --local-dir {folder}"
    if constants.HF_HUB_OFFLINE:
        raise ModelError(
            f"{what}: {repository} is missing, and HF_HUB_OFFLINE forbids its download.",
            f"Download it yourself: {by_hand}",
        )
    try:
        snapshot_download(repository, allow_patterns=list(files), local_dir=folder)
    except errors.GatedRepoError as error:
        raise ModelError(
            f"{what}: you need to accept the licence of {repository}.",
            f"Accept it at https://huggingface.co/{repository}, then log in once with: hf auth login",
        ) from error
    except Exception as error:  # the hub's own errors, those of three network libraries, and a full disk
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"{what}: {repository} can't be downloaded: {reason}", f"Download it yourself: {by_hand}"
        ) from error
    lacking = [name for name in files if not (folder / name).is_file()]
    if lacking:
        raise ModelError(
            f"{what}: {repository} has no {', '.join(lacking)}.",
            f"If its weights are a pickle: {by_hand}, then python -m tools.scorers convert FILE.",
        )
