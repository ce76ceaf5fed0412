"""Checkpoints as ComfyUI users have them: one .safetensors file, plus separate files for missing parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from library.errors import ModelError, PureCCError, all_of
from library.models.family import ModelFiles
from library.models.loading.model_files import FolderFiles
from library.models.loading.tensor_file import TensorFile
from library.models.loading.weights import PartWeights, misfit
from library.models.loading.what_file import what_is
from library.models.sd3.bundled_tokenizers import bundled_tokenizers
from library.models.sd3.checkpoint_layouts import PARTS, slots_of
from library.models.sd3.file_kinds import CLIP_G, CLIP_L, T5
from library.models.sd3.modules import blank

HERE = Path(__file__).parent
SD35_MEDIUM, SD35_LARGE, SD3_MEDIUM = HERE / "sd35_medium", HERE / "sd35_large", HERE / "sd3_medium"
CONFIGURATIONS = (SD35_MEDIUM, SD35_LARGE, SD3_MEDIUM, HERE.parents[2] / "pocket" / "model")
"""Models that a single file can hold: three of Stability's, and the small model that comes with the project. Each is a
folder in diffusers format, of which only configurations and tokenizers are read."""
NAMED = {
    "Stable Diffusion 3.5 Medium": SD35_MEDIUM,
    "Stable Diffusion 3.5 Large": SD35_LARGE,
    "Stable Diffusion 3 Medium": SD3_MEDIUM,
}
"""The models that `what_is` names."""
KNOWN = "Stable Diffusion 3.5 Medium, 3.5 Large or 3 Medium"
SETTINGS = {"vae": "vae", "text_encoder": "clip_l", "text_encoder_2": "clip_g", "text_encoder_3": "t5xxl"}
"""Settings that name a part's separate file."""
NAMES = {"vae": "a VAE", "text_encoder": CLIP_L, "text_encoder_2": CLIP_G, "text_encoder_3": T5}
"""What each such file is, in the words of `what_is`."""
ENCODERS_FOLDER = 'in the folder "text_encoders"; in ComfyUI, models/text_encoders or models/clip'
USUAL_FILES = {
    "vae": 'diffusion_pytorch_model.safetensors in the folder "vae"; in ComfyUI, models/vae',
    "text_encoder": f"clip_l.safetensors {ENCODERS_FOLDER}",
    "text_encoder_2": f"clip_g.safetensors {ENCODERS_FOLDER}",
    "text_encoder_3": f"t5xxl_fp16.safetensors or t5xxl_fp8_e4m3fn.safetensors {ENCODERS_FOLDER}",
}
DOWNLOAD_PAGE = "https://huggingface.co/stabilityai/stable-diffusion-3.5-medium/tree/main"
UNPROJECTED_CLIP = 768
"""Width of OpenAI's CLIP-L. Stable Diffusion 3 takes its pooled state without CLIP's own projection, even if a
file holds one: the projection is the identity."""


class Configuration(FolderFiles):
    """A folder of configurations; missing ones come from Stable Diffusion 3.5 Medium, which shares encoders, VAE and
    scheduler with all of Stability's models."""

    def config(self, part: str) -> dict[str, Any]:
        return super().config(part) if (self.folder / part).is_dir() else FolderFiles(SD35_MEDIUM).config(part)

    def tokenizers(self) -> list[Any]:
        if (self.folder / "tokenizer").is_dir():
            return super().tokenizers()
        return bundled_tokenizers(SD35_MEDIUM / "tokenizers")


class SingleFile:
    """A checkpoint in one file; see `ModelFiles`.

    Args:
        given_apart: parts in separate files, which the checkpoint may lack.
        configurations: of the models that it may hold, see `CONFIGURATIONS`.

    Raises:
        ModelError: it is none of them, or parts are missing.
    """

    def __init__(self, path: Path, given_apart: Sequence[str], configurations: Sequence[Path]) -> None:
        self.name = str(path)
        self._file = TensorFile(path)
        self._folder = self._configuration(configurations)
        self.family = self._folder.family
        missing: list[PureCCError] = []
        for part in PARTS[1:]:
            if part not in given_apart and not slots_of(part, self._file, self.config(part))[0]:
                missing.append(
                    ModelError(
                        f"{path} contains no {SETTINGS[part]}; give it separately: {SETTINGS[part]} = FILE.",
                        f"The usual file is {USUAL_FILES[part]}. Download: {DOWNLOAD_PAGE}",
                    )
                )
            elif part not in given_apart:
                self.weights(part)
        if missing:
            raise all_of(missing)

    def config(self, part: str) -> dict[str, Any]:
        return self._folder.config(part)

    def tokenizers(self) -> list[Any]:
        return self._folder.tokenizers()

    def weights(self, part: str) -> PartWeights:
        return weights_in(self._file, part, self.config(part))

    def _configuration(self, configurations: Sequence[Path]) -> Configuration:
        """The configuration that matches the file's transformer."""
        what, problem = what_is(self._file.entries), None
        own = NAMED.get(what)
        for folder in sorted(configurations, key=lambda one: one != own):
            known = Configuration(folder)
            try:
                weights_in(self._file, "transformer", known.config("transformer"), what)
            except ModelError as error:
                problem = problem or error
            else:
                return known
        if own is not None:
            raise problem or ModelError(f"{self.name} is damaged.")
        apart = next((SETTINGS[part] for part, name in NAMES.items() if name == what), None)
        raise ModelError(
            f"pretrained_model_name_or_path: {self.name} is {what}; a single file has to hold {KNOWN}.",
            f"Set {apart} = FILE, in addition to the checkpoint of the transformer."
            if apart
            else (
                f"The usual file is sd3.5_medium.safetensors; in ComfyUI, models/checkpoints. Download: {DOWNLOAD_PAGE}"
            ),
        )


class PartsApart:
    """A model with some parts from separate files; see `ModelFiles`.

    Args:
        given: the separate files, by part.

    Raises:
        ModelError: a file does not hold its part.
    """

    def __init__(self, model: ModelFiles, given: Mapping[str, Path]) -> None:
        self.name = model.name
        self.family = model.family
        self._model = model
        self._given = {part: _file_of(part, path) for part, path in given.items()}
        for part in given:
            self.weights(part)

    def config(self, part: str) -> dict[str, Any]:
        return self._model.config(part)

    def tokenizers(self) -> list[Any]:
        return self._model.tokenizers()

    def weights(self, part: str) -> PartWeights:
        file = self._given.get(part)
        if file is None:
            return self._model.weights(part)
        if not slots_of(part, file, self.config(part))[0]:
            raise ModelError(f"{SETTINGS[part]}: {file.path} is {what_is(file.entries)} without {NAMES[part]}.")
        try:
            return weights_in(file, part, self.config(part))
        except ModelError as error:
            what = what_is(file.entries)
            if what == NAMES[part]:
                raise
            raise ModelError(f"{SETTINGS[part]}: {file.path} is {what} instead of {NAMES[part]}.") from error


def _file_of(part: str, path: Path) -> TensorFile:
    """A part's separate file, with a checked header."""
    if not path.is_file():
        what = f"{path} is a folder" if path.is_dir() else f"the file {path.absolute()} doesn't exist"
        raise ModelError(
            f"{SETTINGS[part]}: {what}.", f"The usual file is {USUAL_FILES[part]}. Download: {DOWNLOAD_PAGE}"
        )
    try:
        return TensorFile(path)
    except ModelError as error:
        raise ModelError(f"{SETTINGS[part]}: {error.what}", error.remedy) from error


def weights_in(
    file: TensorFile, part: str, config: Mapping[str, Any], model: str = "Stable Diffusion 3"
) -> PartWeights:
    """A part from a file, checked for completeness.

    Args:
        model: the name, in messages, of the model that the part must belong to.

    Raises:
        ModelError: the file lacks some of it, or it belongs to another model.
    """
    remedy = "Download it again, or use another file."
    try:
        slots, unused = slots_of(part, file, config)
    except KeyError as error:
        raise ModelError(f"{file.path} lacks {error.args[0]}.", remedy) from error
    if part == "transformer" and unused:
        raise ModelError(f"{file.path} contains {unused[0]}, which is not part of {model}.", remedy)
    fixed = {}
    if part == "text_encoder" and (config["hidden_size"] == UNPROJECTED_CLIP or "text_projection.weight" not in slots):
        slots.pop("text_projection.weight", None)
        fixed["text_projection.weight"] = torch.eye(config["projection_dim"], config["hidden_size"])
    weights = PartWeights(str(file.path), {name: (file, slot) for name, slot in slots.items()}, fixed)
    problem = misfit(blank(part, config), weights)
    if problem:
        raise ModelError(f"{file.path} does not fit {model}: {problem}.", remedy)
    return weights
