"""Models from huggingface.co by id, such as stabilityai/stable-diffusion-3.5-medium, kept in the hub's usual cache."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from library.errors import ModelError
from library.models.family import FAMILIES
from library.models.loading.model_files import FolderFiles
from library.models.loading.weights import PartWeights

HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*)/[\w.-]+")
ENDINGS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf")
"""A name that ends so is a file's."""
SETTING = "pretrained_model_name_or_path"
OTHER_PRECISIONS = ["*.fp16*", "*.bf16*"]
"""Files that hold a second copy of a part."""


def is_hub_id(name: str) -> bool:
    """Whether a name can be a model on the hub, not a file or folder; "models/x" is a missing folder."""
    found = HUB_ID.fullmatch(name)
    return found is not None and found[1] != "models" and not Path(found[1]).is_dir() and not name.endswith(ENDINGS)


def small_files() -> list[str]:
    """Patterns for configurations and tokenizers of every family; a dry run downloads nothing else."""
    parts = dict.fromkeys(part for family in FAMILIES.values() for part in family.parts)
    tokenizers = dict.fromkeys(name for family in FAMILIES.values() for name in family.tokenizers)
    files = ["model_index.json", "scheduler/*.json", *(f"{part}/*.json" for part in parts)]
    return files + [f"{name}/*.{ending}" for name in tokenizers for ending in ("json", "txt")]


class HubFiles(FolderFiles):
    """A model on the hub in diffusers format: a folder of parts, each downloaded on first use.

    It only ever downloads .safetensors, .json and .txt files.

    Args:
        offline: use earlier downloads, and no network.

    Raises:
        ModelError: no such model, no permission to download it, or no network.
    """

    def __init__(self, hub_id: str, *, offline: bool = False) -> None:
        self._id = hub_id
        self._offline = offline
        self._commit = None
        folder = self._download(small_files())
        self._commit = folder.name
        super().__init__(folder)
        self.name = hub_id

    def weights(self, part: str) -> PartWeights:
        folder = self._download([f"{part}/*.safetensors"], OTHER_PRECISIONS)
        if not any((folder / part).glob("*.safetensors")):
            self._download([f"{part}/*.safetensors"])
            if self._is_offline and not any((folder / part).glob("*.safetensors")):
                raise _in_words(self._id, FileNotFoundError(part), True, SETTING)
        return super().weights(part)

    @property
    def _is_offline(self) -> bool:
        return is_offline(self._offline)

    def _download(self, files: Sequence[str], but: Sequence[str] = ()) -> Path:
        return snapshot(self._id, SETTING, files, but, revision=self._commit, offline=self._offline)


def is_offline(asked: bool = False) -> bool:
    """Whether nothing may be downloaded, by the setting or the environment."""
    from huggingface_hub import constants

    return asked or constants.HF_HUB_OFFLINE


def snapshot(
    hub_id: str,
    setting: str,
    files: Sequence[str],
    but: Sequence[str] = (),
    *,
    revision: str | None = None,
    offline: bool = False,
) -> Path:
    """The folder with files of a model on the hub, downloaded unless they were before.

    Args:
        setting: the one that names the model, for messages.
        files, but: patterns of files to download, and of exceptions.

    Raises:
        ModelError: see `HubFiles`.
    """
    from huggingface_hub import snapshot_download

    options: dict[str, Any] = {"revision": revision, "local_files_only": is_offline(offline)}
    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(files), ignore_patterns=list(but), **options))
    except Exception as error:  # the hub's own errors, those of three network libraries, and a full disk
        raise _in_words(hub_id, error, is_offline(offline), setting) from error


def _in_words(hub_id: str, error: Exception, offline: bool, setting: str) -> ModelError:
    from huggingface_hub import errors

    what = f"{setting}: {hub_id}"
    if isinstance(error, errors.GatedRepoError):
        return ModelError(
            f"To download {what}, you need to accept its licence.",
            f"Accept it at https://huggingface.co/{hub_id}, then log in once with: hf auth login",
        )
    if isinstance(error, (errors.RepositoryNotFoundError, errors.HFValidationError)):
        return ModelError(
            f"{what} is not a file or folder on this computer, nor a model on huggingface.co.",
            "Check the spelling. A private model needs: hf auth login",
        )
    if offline:
        return ModelError(
            f"{what} has not been downloaded completely, and the run is offline.",
            f"Run once without offline, or download it: hf download {hub_id} --local-dir FOLDER",
        )
    if isinstance(error, OSError) and error.errno is not None:
        return ModelError(
            f"{what} can't be stored: {error.strerror}.", "Free some space, or set HF_HOME to another disk."
        )
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return ModelError(
        f"{what} is not on this computer, and huggingface.co can't be reached: {reason}",
        "Check your network. If you have downloaded the model before, set offline = true.",
    )
