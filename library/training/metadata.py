"""What a LoRA file says of itself: kohya's ss_*, Stability's modelspec.*, and the text that Forge puts in prompts."""

from __future__ import annotations

import json
import time
from collections import Counter
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from library import __version__
from library.prompts import with_trigger
from library.training.branching import learns_whole_weights
from library.training.parts import Parts

if TYPE_CHECKING:
    from library.training.plan import Plan

MOST_TAGS = 200
"""Pieces of captions that are counted in the metadata, the most frequent ones."""


def family_of(transformer_config: dict[str, Any]) -> str:
    """Which of Stability's models it is: "3-medium", "3-5-medium" or "3-5-large", by how it is built."""
    if transformer_config.get("dual_attention_layers"):
        return "3-5-medium"
    return "3-5-large" if transformer_config.get("qk_norm") else "3-medium"


def metadata_of(parts: Parts, steps: int) -> dict[str, str]:
    """What UIs and other trainers read in a LoRA file. SD.Next knows the model by `ss_base_model_version`."""
    settings, saving = parts.settings, parts.settings.saving
    network, whole = settings.network, learns_whole_weights(settings)
    pure, family = settings.pure_learning, family_of(parts.model.transformer_config)
    own = {
        "author": saving.metadata_author,
        "description": saving.metadata_description,
        "license": saving.metadata_license,
    }
    return {
        "ss_output_name": saving.output_name,
        "ss_network_module": "networks.lora_sd3",
        "ss_network_dim": str(settings.network.network_dim),
        "ss_network_alpha": str(network.network_dim if whole else network.network_alpha),
        "ss_base_model_version": f"sd{family}",
        "ss_sd_model_name": settings.model.pretrained_model_name_or_path.replace("\\", "/").rstrip("/").split("/")[-1],
        "ss_steps": str(steps),
        "ss_learning_rate": str(settings.optimizer.learning_rate),
        "ss_lr_scheduler": settings.optimizer.lr_scheduler,
        "ss_optimizer": settings.optimizer.optimizer_type,
        "ss_mixed_precision": settings.model.mixed_precision,
        "ss_seed": str(settings.optimizer.seed),
        "ss_training_finished_at": str(time.time()),
        "ss_training_comment": f"PureCC {__version__}, method {settings.method.method}: eta {pure.eta}, lambda "
        f"{pure.lambda_}, anchor {pure.anchor_weight}, replay {pure.replay_weight if pure.replay_images else 0}",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"stable-diffusion-{family}/lora",
        "modelspec.implementation": "https://github.com/Stability-AI/sd3.5",
        "modelspec.title": saving.metadata_title or saving.output_name,
        "modelspec.date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "modelspec.trigger_phrase": ", ".join(concept.trigger for concept in parts.concepts),
        "modelspec.usage_hint": f"Write {activation_text(parts)} in the prompt.",
        "modelspec.prediction_type": "v",
        **{f"modelspec.{name}": value for name, value in own.items() if value},
        "purecc": json.dumps(
            {
                "version": __version__,
                "method": settings.method.method,
                "concepts": [concept.name for concept in parts.concepts],
            }
        ),
    }


def data_metadata(plan: Plan) -> dict[str, str]:
    """What the metadata says of the pictures: resolution, how many, of which sizes, their captions."""
    folders: dict[str, Counter] = {}
    images: Counter = Counter()
    for picture in plan.pictures:
        folder = picture.path.parent.name
        images[folder] += 1
        tags = [tag.strip() for triple in picture.prompts[:1] for tag in triple.complete.split(",")]
        folders.setdefault(folder, Counter()).update(tag for tag in tags if tag)
    sizes = Counter(picture.size for picture in plan.pictures)
    buckets = {
        str(index): {"resolution": list(size), "count": count} for index, (size, count) in enumerate(sizes.items())
    }
    repeats = {picture.path.parent.name: picture.subset.num_repeats for picture in plan.pictures}
    dirs = {name: {"n_repeats": repeats[name], "img_count": count} for name, count in images.items()}
    tags = {name: dict(counts.most_common(MOST_TAGS)) for name, counts in folders.items()}
    width, height = plan.size
    return {
        "ss_resolution": f"({width}, {height})",
        "modelspec.resolution": f"{width}x{height}",
        "ss_num_train_images": str(len(plan.pictures)),
        "ss_bucket_info": json.dumps({"buckets": buckets}),
        "ss_dataset_dirs": json.dumps(dirs),
        "ss_tag_frequency": json.dumps(tags),
    }


def activation_text(parts: Parts) -> str:
    """What a prompt has to hold: every concept's target text."""
    return ", ".join(with_trigger(concept.target, concept) for concept in parts.concepts)


def sidecar_of(parts: Parts) -> dict[str, Any]:
    """The JSON beside a LoRA from which Forge and A1111 take what a click on it puts into the prompt."""
    return {
        "description": parts.settings.saving.metadata_description or "",
        "activation text": activation_text(parts),
        "preferred weight": 1.0,
        "negative text": "",
        "notes": "",
    }
