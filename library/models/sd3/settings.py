"""Stable Diffusion 3's own settings: its encoders, their lengths and masks, and its kinds of layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from library.config.family_settings import FamilySettings, bring
from library.config.fields import setting

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
"""Every attention projection of both streams, `attn2` included, by the ending of its name."""
FEED_FORWARD = ("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2")
"""The feed-forward layers of both streams, by the endings of their names."""
KINDS = {
    "context_attn_dim": ATTENTION[4:],
    "context_mlp_dim": FEED_FORWARD[2:],
    "context_mod_dim": ("norm1_context.linear",),
    "x_attn_dim": ATTENTION[:4],
    "x_mlp_dim": FEED_FORWARD[:2],
    "x_mod_dim": ("norm1.linear",),
}
"""sd-scripts' kinds of layers, each with the endings of their names."""


@dataclass(frozen=True, kw_only=True)
class SD3ModelSettings:
    """In [model]: files of the encoders, and how they read."""

    clip_l: str | None = setting(
        None, "CLIP-L's .safetensors file, if the model file doesn't contain it.", holds="path"
    )
    clip_g: str | None = setting(
        None, "CLIP-G's .safetensors file, if the model file doesn't contain it.", holds="path"
    )
    t5xxl: str | None = setting(
        None,
        "T5-XXL's .safetensors file (fp16, bf16, fp8 or scaled fp8), if the model file doesn't contain it.",
        holds="path",
    )
    t5xxl_max_token_length: int = setting(
        77, "Number of tokens that T5 reads of each prompt, in training and in sampling.", at_least=1, at_most=512
    )
    apply_lg_attn_mask: bool = setting(
        False,
        "Mask the padding in both CLIPs, in training and in sampling. ComfyUI, Forge and diffusers don't mask "
        "it, so leave this off for them.",
    )
    apply_t5_attn_mask: bool = setting(
        False,
        "Mask the padding in T5, in training and in sampling. ComfyUI, Forge and diffusers don't mask it, so "
        "leave this off for them.",
    )


def _dropout_of(encoder: str) -> float:
    return setting(
        0.0,
        f"Share of images, also replayed ones, trained without {encoder}: its states are 0 in all of their prompts.",
        at_least=0,
        at_most=1,
    )


@dataclass(frozen=True, kw_only=True)
class SD3DataSettings:
    """In [data]: how often an image is seen without an encoder."""

    clip_l_dropout_rate: float = _dropout_of("CLIP-L")
    clip_g_dropout_rate: float = _dropout_of("CLIP-G")
    t5_dropout_rate: float = _dropout_of("T5")


def _dim_of(what: str) -> int | None:
    return setting(
        None,
        f"Rank of the LoRA in {what}. 0: no LoRA there. If one of the six dims is set, they choose the layers instead "
        "of target_modules, and unset ones use network_dim.",
        at_least=0,
    )


@dataclass(frozen=True, kw_only=True)
class SD3NetworkSettings:
    """In [network]: a rank for each kind of layer, as sd-scripts has them."""

    context_attn_dim: int | None = _dim_of("the text stream's attention")
    context_mlp_dim: int | None = _dim_of("the text stream's feed-forward layers")
    context_mod_dim: int | None = _dim_of("the text stream's adaptive norm")
    x_attn_dim: int | None = _dim_of("the image stream's attention")
    x_mlp_dim: int | None = _dim_of("the image stream's feed-forward layers")
    x_mod_dim: int | None = _dim_of("the image stream's adaptive norm")

    @property
    def kinds(self) -> Mapping[str, Sequence[str]]:
        """See `NetworkSettings`."""
        return KINDS


@dataclass(frozen=True, kw_only=True)
class SD3EmbeddingSettings:
    """In [concept_embeddings]: the text streams that get vectors."""

    embedding_positions: Literal["clip_and_t5", "clip"] = setting(
        "clip_and_t5", "Trigger tokens that the vectors replace: those of CLIP and T5, or only those of CLIP."
    )

    @property
    def every_stream(self) -> bool:
        """See `ConceptEmbeddingSettings`."""
        return self.embedding_positions != "clip"


SD3_SETTINGS = bring(
    FamilySettings(
        family="sd3",
        sections={
            "model": SD3ModelSettings,
            "data": SD3DataSettings,
            "network": SD3NetworkSettings,
            "concept_embeddings": SD3EmbeddingSettings,
        },
        often_changed=("clip_l", "clip_g", "t5xxl"),
        synonyms={
            "t5xxl": "t5 t5_path t5xxl_path",
            "clip_l": "clip_l_path",
            "clip_g": "clip_g_path",
            "t5xxl_max_token_length": "max_sequence_length t5_max_length t5_max_sequence_length",
        },
        layouts={
            "kohya": "ComfyUI, Forge and reForge",
            "diffusers": "diffusers and ComfyUI",
            "onetrainer": "SD.Next and ComfyUI",
        },
        usual_layouts=("kohya", "diffusers"),
        attention=ATTENTION,
        feed_forward=FEED_FORWARD,
        text_attention=KINDS["context_attn_dim"],
        text_feed_forward=KINDS["context_mlp_dim"],
    )
)
