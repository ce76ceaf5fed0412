"""What a LoRA file says about itself: kohya's ss_*, Stability's modelspec.*, and the text that Forge puts in
prompts."""

from __future__ import annotations

import base64
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from PIL import Image

from library import __version__
from library.config.metadata_settings import DATA_URL
from library.config.network_settings import NetworkSettings
from library.config.settings import Settings
from library.data.images import open_image
from library.data.pictures import Picture
from library.errors import DataError
from library.parts.branching import learns_whole_weights
from library.parts.parts import Opened
from library.prompts import with_trigger

MOST_TAGS = 200
"""Most caption tags counted in the metadata, the most frequent ones."""

OTHER_ARGUMENTS = ("train_block_indices", "rank_dropout", "module_dropout", "loraplus_lr_ratio")
"""What sd-scripts takes by network_args, besides the ranks of kinds of layers."""
MODELSPEC = "modelspec."
AS_SAID = ("author", "description", "license", "tags", "merged_from", "preprocessor", "is_negative_embedding")
"""The fields of modelspec that the user may set."""
NEEDED = frozenset(
    {"ss_network_module", "ss_network_args", "ss_network_dim", "ss_network_alpha", "ss_base_model_version"}
)
"""Kohya's fields that stay with `no_metadata`, as in sd-scripts."""


def metadata_of(parts: Opened, steps: int, about_data: Mapping[str, str] | None = None) -> dict[str, str]:
    """The metadata of a LoRA file that UIs and other trainers read. SD.Next knows the model by `ss_base_model_version`.

    Args:
        about_data: the metadata about the pictures.
    """
    whole = {**_of_training(parts, steps), **(about_data or {})}
    if not parts.settings.metadata.no_metadata:
        return whole
    return {name: text for name, text in whole.items() if name in NEEDED or name.startswith(MODELSPEC)}


def _of_training(parts: Opened, steps: int) -> dict[str, str]:
    settings, saving, said = parts.settings, parts.settings.saving, parts.settings.metadata
    network, whole = settings.network, learns_whole_weights(settings)
    pure, described = settings.pure_learning, parts.model.described
    weights = {
        "eta": pure.eta,
        "lambda": pure.lambda_,
        "anchor": pure.anchor_weight,
        "replay": pure.replay_weight if pure.replay_images else 0,
    }
    triggers = ", ".join(concept.trigger for concept in parts.concepts)
    in_words = ", ".join(f"{name} {weight}" for name, weight in weights.items())
    return {
        "ss_output_name": saving.output_name,
        "ss_network_module": described["ss_network_module"],
        "ss_network_dim": str(settings.network.network_dim),
        "ss_network_alpha": str(network.network_dim if whole else network.network_alpha),
        "ss_network_dropout": str(network.network_dropout),
        **_network_args(network),
        "ss_scale_weight_norms": str(network.scale_weight_norms or None),
        "ss_loss_type": settings.loss.loss_type,
        "ss_base_model_version": described["ss_base_model_version"],
        "ss_sd_model_name": settings.model.pretrained_model_name_or_path.replace("\\", "/").rstrip("/").split("/")[-1],
        "ss_steps": str(steps),
        "ss_learning_rate": str(settings.optimizer.learning_rate),
        "ss_lr_scheduler": settings.optimizer.lr_scheduler,
        "ss_optimizer": settings.optimizer.optimizer_type,
        "ss_mixed_precision": settings.model.mixed_precision,
        "ss_seed": str(settings.optimizer.seed),
        "ss_training_finished_at": str(time.time()),
        "ss_training_comment": said.training_comment
        or f"PureCC {__version__}, method {settings.method.method}: {in_words}",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": described["modelspec.architecture"],
        "modelspec.implementation": described["modelspec.implementation"],
        "modelspec.title": said.metadata_title or saving.output_name,
        "modelspec.date": datetime.now(UTC).isoformat(timespec="seconds"),
        "modelspec.trigger_phrase": said.metadata_trigger_phrase or triggers,
        "modelspec.usage_hint": said.metadata_usage_hint or f"Write {activation_text(parts)} in the prompt.",
        "modelspec.prediction_type": "v",
        **{f"{MODELSPEC}{name}": text for name in AS_SAID if (text := getattr(said, f"metadata_{name}"))},
        "purecc": json.dumps(
            {
                "version": __version__,
                "method": settings.method.method,
                "weights": weights,
                "concepts": [concept.name for concept in parts.concepts],
            }
        ),
    }


def _network_args(network: NetworkSettings) -> dict[str, str]:
    """The network_args that sd-scripts would have had, if any."""
    given = {name: getattr(network, name) for name in (*network.kinds, *OTHER_ARGUMENTS)}
    usual = {field.name: field.default for field in fields(network)}
    told = {name: str(value) for name, value in given.items() if value != usual[name]}
    return {"ss_network_args": json.dumps(told)} if told else {}


def data_metadata(pictures: Sequence[Picture], size: tuple[int, int]) -> dict[str, str]:
    """The metadata about the pictures: resolution, number, sizes and captions.

    Args:
        size: width and height that the run is for, in pixels.
    """
    folders: dict[str, Counter[str]] = {}
    images: Counter[str] = Counter()
    for picture in pictures:
        folder = picture.path.parent.name
        images[folder] += 1
        tags = [tag.strip() for triple in picture.prompts[:1] for tag in triple.complete.split(",")]
        folders.setdefault(folder, Counter()).update(tag for tag in tags if tag)
    sizes = Counter(picture.size for picture in pictures)
    buckets = {
        str(index): {"resolution": list(size), "count": count} for index, (size, count) in enumerate(sizes.items())
    }
    repeats = {picture.path.parent.name: picture.subset.num_repeats for picture in pictures}
    dirs = {name: {"n_repeats": repeats[name], "img_count": count} for name, count in images.items()}
    frequent = {name: dict(counts.most_common(MOST_TAGS)) for name, counts in folders.items()}
    width, height = size
    return {
        "ss_resolution": f"({width}, {height})",
        "modelspec.resolution": f"{width}x{height}",
        "ss_num_train_images": str(len(pictures)),
        "ss_bucket_info": json.dumps({"buckets": buckets}),
        "ss_dataset_dirs": json.dumps(dirs),
        "ss_tag_frequency": json.dumps(frequent),
    }


def own_thumbnail(settings: Settings) -> Image.Image | None:
    """The picture that `metadata_thumbnail` names or holds; None if it is unset.

    Raises:
        DataError: it is not a picture.
    """
    said = settings.metadata.metadata_thumbnail
    if said is None:
        return None
    try:
        if not said.startswith(DATA_URL):
            return open_image(Path(said))
        _, _, written_out = said.partition(";base64,")
        return open_image(Path("in the data: URL"), base64.b64decode(written_out, validate=True))
    except (DataError, ValueError) as error:
        raise DataError(f"metadata_thumbnail: {getattr(error, 'what', error)}", "Give a PNG or JPEG file.") from error


def activation_text(parts: Opened) -> str:
    """What a prompt must contain: every concept's target text."""
    return ", ".join(with_trigger(concept.target, concept) for concept in parts.concepts)


def sidecar_of(parts: Opened) -> dict[str, Any]:
    """The JSON next to a LoRA from which Forge and A1111 take the text that a click adds to the prompt."""
    return {
        "description": parts.settings.metadata.metadata_description or "",
        "activation text": activation_text(parts),
        "preferred weight": 1.0,
        "negative text": "",
        "notes": "",
    }
