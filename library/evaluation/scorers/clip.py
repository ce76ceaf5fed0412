"""CLIP and its relatives: CLIP-T, CLIP-I, PickScore and HPSv2.1 are cosines of the same kind of network."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from PIL.Image import Image
from torch import Tensor

from library.evaluation.scorers.interface import Identity
from library.evaluation.scorers.pixels import CLIP_MEAN, CLIP_STD, Preprocess, in_batches
from library.evaluation.scorers.scorer_files import load_into, read_weights
from library.models.loading.pretrained import load_pretrained
from library.models.sd3.bundled_tokenizers import BUNDLED, bundled_tokenizers
from library.transfer import moved

if TYPE_CHECKING:
    from transformers import CLIPModel, PreTrainedTokenizerBase

AT_ONCE = 16
VISION_NAMES = {
    "conv1.": "embeddings.patch_embedding.",
    "class_embedding": "embeddings.class_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_pre.": "pre_layrnorm.",
    "ln_post.": "post_layernorm.",
}
TEXT_NAMES = {
    "token_embedding.": "embeddings.token_embedding.",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.": "final_layer_norm.",
}
LAYER_NAMES = {
    "ln_1.": "layer_norm1.",
    "ln_2.": "layer_norm2.",
    "mlp.c_fc.": "mlp.fc1.",
    "mlp.c_proj.": "mlp.fc2.",
    "attn.out_proj.": "self_attn.out_proj.",
}
"""Names of OpenAI's CLIP and of open_clip, and what `transformers` calls them."""


class ClipScorer:
    """Image encoder and text-image scorer.

        score = factor * cos(image embedding, text embedding)

    Args:
        tokenizer: of the texts.
        factor: 100 for CLIP-T and HPSv2.1 in tables; None: the model's own logit scale, as PickScore has it.
    """

    def __init__(
        self,
        identity: Identity,
        model: CLIPModel,
        tokenizer: PreTrainedTokenizerBase,
        preprocess: Preprocess,
        factor: float | None,
        device: torch.device,
    ) -> None:
        self.identity = identity
        self.tokenizer = tokenizer
        self.preprocess = preprocess
        self.model = moved(model, device)
        self.factor = float(model.logit_scale.detach().exp()) if factor is None else factor
        self.device = device

    @torch.no_grad()
    def embed(self, images: Sequence[Image]) -> Tensor:
        """Image embeddings behind the projection, (N, D)."""
        parts = []
        for some in in_batches(images, AT_ONCE):
            pixels = self.preprocess.batch(some).to(self.device)
            pooled = self.model.vision_model(pixel_values=pixels).pooler_output
            parts.append(self.model.visual_projection(pooled).float().cpu())
        return torch.cat(parts)

    @torch.no_grad()
    def score(self, images: Sequence[Image], texts: Sequence[str]) -> Tensor:
        """One cosine a pair, times the factor, (N,)."""
        known = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        of_text = torch.cat([self._embed_texts(some) for some in in_batches(list(known), AT_ONCE)])
        rows = of_text[[known[text] for text in texts]]
        return self.factor * F.cosine_similarity(self.embed(images), rows)

    def _embed_texts(self, texts: Sequence[str]) -> Tensor:
        # Texts of one batch are filled up to the longest; the attention is causal, so what follows the end is not seen.
        length = self.model.text_model.config.max_position_embeddings
        tokens = self.tokenizer(list(texts), padding=True, truncation=True, max_length=length, return_tensors="pt")
        given = {name: tokens[name].to(self.device) for name in ("input_ids", "attention_mask")}
        pooled = self.model.text_model(**given).pooler_output
        return self.model.text_projection(pooled).float().cpu()


def load_clip(identity: Identity, folder: Path, device: torch.device, factor: float | None) -> ClipScorer:
    """From a folder in the format of `transformers`."""
    from transformers import AutoTokenizer, CLIPModel

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    preprocess = Preprocess.of_file(folder / "preprocessor_config.json")
    return ClipScorer(identity, load_pretrained(CLIPModel, folder), tokenizer, preprocess, factor, device)


def load_hps(identity: Identity, folder: Path, device: torch.device) -> ClipScorer:
    """HPSv2.1: open_clip's ViT-H-14 with fine-tuned weights; the plain cosine, without the logit scale."""
    from transformers import CLIPConfig, CLIPModel

    tokenizer = bundled_tokenizers(BUNDLED)[1]  # CLIP-G's, which is open_clip's
    file = folder / "model.safetensors"
    model = load_into(CLIPModel(CLIPConfig(**VIT_H_14)), clip_from_openai(read_weights(file)), file)
    return ClipScorer(identity, model, tokenizer, Preprocess(224, 224, CLIP_MEAN, CLIP_STD), 100.0, device)


VIT_H_14: Mapping[str, Any] = {
    "projection_dim": 1024,
    "text_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "hidden_act": "gelu",
        "projection_dim": 1024,
    },
    "vision_config": {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "patch_size": 14,
        "hidden_act": "gelu",
        "projection_dim": 1024,
    },
}
"""The shape of open_clip's ViT-H-14."""


def clip_from_openai(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A whole CLIP in the names of OpenAI's code and open_clip, as `transformers` names it."""
    found = {f"vision_model.{name}": tensor for name, tensor in vision_from_openai(tensors, "visual.").items()}
    text = {name: tensor for name, tensor in tensors.items() if not name.startswith("visual.")}
    for name, tensor in _renamed(text, "", TEXT_NAMES).items():
        found[f"text_model.{name}"] = tensor
    found["visual_projection.weight"] = tensors["visual.proj"].T
    found["text_projection.weight"] = tensors["text_projection"].T
    found["logit_scale"] = tensors["logit_scale"]
    return found


def vision_from_openai(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The image half, without its projection, as `CLIPVisionModel` names it."""
    return _renamed(tensors, prefix, VISION_NAMES)


def _renamed(tensors: Mapping[str, Tensor], prefix: str, outer: Mapping[str, str]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for full, tensor in tensors.items():
        if not full.startswith(prefix):
            continue
        name = full.removeprefix(prefix)
        layer = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)", name)
        if layer:
            begin, inside = f"encoder.layers.{layer[1]}.", layer[2]
            if inside.startswith("attn.in_proj_"):
                kind = inside.removeprefix("attn.in_proj_")
                for which, part in zip("qkv", tensor.chunk(3), strict=True):
                    found[f"{begin}self_attn.{which}_proj.{kind}"] = part
                continue
            old = next(old for old in LAYER_NAMES if inside.startswith(old))
            found[begin + LAYER_NAMES[old] + inside.removeprefix(old)] = tensor
            continue
        known = next((old for old in outer if name.startswith(old)), None)
        if known:
            found[outer[known] + name.removeprefix(known)] = tensor
    return found
