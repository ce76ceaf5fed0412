"""Settings of the pretrained model: where its files are and how its weights lie in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from library.config.fields import setting
from library.errors import ConfigError, did_you_mean
from library.roofline import CARDS


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """[model]: the pretrained model and the precision it runs in."""

    pretrained_model_name_or_path: str = setting(
        help="A .safetensors file of Stable Diffusion 3.5 Medium, 3.5 Large or 3 Medium as for ComfyUI, or such a "
        "model in diffusers format: its folder, or its name on huggingface.co.",
        holds="path",
    )
    clip_l: str | None = setting(None, "CLIP-L's own .safetensors file, where the model's file lacks it.", holds="path")
    clip_g: str | None = setting(None, "CLIP-G's own .safetensors file, where the model's file lacks it.", holds="path")
    t5xxl: str | None = setting(
        None,
        "T5-XXL's own .safetensors file (fp16, bf16, fp8, scaled fp8), where the model's file lacks it.",
        holds="path",
    )
    vae: str | None = setting(None, "The VAE's own .safetensors file, where the model's file lacks it.", holds="path")
    offline: bool = setting(False, "Never use the network; what was downloaded before is used.", shapes_training=False)
    t5xxl_max_token_length: int = setting(
        77, "Tokens that T5 reads of each prompt, in training and in sampling alike.", at_least=1, at_most=512
    )
    apply_lg_attn_mask: bool = setting(
        False,
        "Both CLIPs read prompts without their padding, in training and in sampling alike; ComfyUI, Forge and "
        "diffusers let them read it.",
    )
    apply_t5_attn_mask: bool = setting(
        False,
        "T5 reads prompts without their padding, in training and in sampling alike; ComfyUI, Forge and diffusers let "
        "it read the padding, and draw from other states than those learned from.",
    )
    mixed_precision: Literal["no", "fp16", "bf16"] = setting(
        "bf16",
        'Precision of the frozen weights and of every pass; "no" is float32. '
        "The LoRA itself is float32, but with full_bf16.",
    )
    device: str = setting("auto", 'Where to train: "auto", "cpu", "cuda", "cuda:1" ...', shapes_training=False)
    gradient_checkpointing: bool = setting(
        True, "Recompute blocks in the backward pass: far less memory, more time.", shapes_training=False
    )
    checkpointed_blocks: Literal["auto", "all"] | int = setting(
        "auto",
        "How many blocks gradient checkpointing recomputes, from the first: all of them, or so many. On an NVIDIA "
        'card, "auto" recomputes as few as its free memory allows; elsewhere all.',
        at_least=0,
        shapes_training=False,
    )
    cpu_offload_checkpointing: bool = setting(
        False,
        "What recomputed blocks begin from waits in the computer's memory for the backward pass: less memory, more "
        "time, and no number changes.",
        shapes_training=False,
    )
    base_quantization: Literal["none", "int8", "fp8", "nf4"] = setting(
        "none",
        "Bits of the frozen transformer, for both members of every difference: 16, 8 (int8 is the more exact), or 4 by "
        "bitsandbytes (least memory, least exact). What flows through it stays in mixed_precision.",
    )
    fp8_base: bool = setting(False, 'The same as base_quantization = "fp8".')
    blocks_to_swap: int = setting(
        0,
        "Blocks that live in the computer's memory and visit the card one by one; slower, but changes no number. Needs "
        "gradient_checkpointing.",
        at_least=0,
        shapes_training=False,
    )
    xformers: bool = setting(False, "Attention by xformers; needs an NVIDIA card.", shapes_training=False)
    sdpa: bool = setting(
        True,
        "PyTorch's own attention, where xformers is not asked for or can't work; false: an error instead.",
        shapes_training=False,
    )
    sdpa_backend: Literal["auto", "flash", "efficient", "cudnn", "math"] = setting(
        "auto", "The kernel of PyTorch's own attention to prefer.", shapes_training=False
    )
    torch_compile: bool = setting(
        False, "Feed-forward layers by torch.compile: a slower start, faster steps.", shapes_training=False
    )

    vae_tiling: bool = setting(
        False,
        "Decode the pictures of sheets in tiles: less memory, faint seams. Training sees none.",
        shapes_training=False,
    )
    vram_gb: float | None = setting(
        None,
        "Memory of the card in GiB to plan for. Unset: the memory of the NVIDIA card at hand.",
        above=0,
        shapes_training=False,
    )
    card: str | None = setting(
        None,
        'Card to predict memory and time for, such as "RTX 3060": ' + ", ".join(CARDS) + ". Unset: the one at hand.",
        shapes_training=False,
    )
    auto_fit: bool = setting(
        False,
        "Where the memory does not suffice, take the next step down by itself: recompute all blocks, predictions one "
        "by one, tiles, swapped blocks, and before training begins, fewer bits.",
        shapes_training=False,
    )

    def __post_init__(self) -> None:
        if self.fp8_base and self.base_quantization not in ("none", "fp8"):
            raise ConfigError(
                f'model: fp8_base = true and base_quantization = "{self.base_quantization}" exclude each other.',
                "Take one of the two out.",
            )
        if self.blocks_to_swap and not self.gradient_checkpointing:
            raise ConfigError(
                "model: blocks_to_swap needs gradient_checkpointing = true: a swapped block's weights are gone when "
                "the backward pass needs them, and recomputing the block brings them back.",
                "Set gradient_checkpointing = true.",
            )
        if self.card is not None and self.card not in CARDS:
            raise ConfigError(f'model: card = "{self.card}" is not known.', did_you_mean(self.card, CARDS))
        if not self.sdpa and not self.xformers:
            raise ConfigError(
                "model: sdpa and xformers are both false, so there would be no attention.", "Set sdpa = true."
            )

    @property
    def quantization(self) -> Literal["none", "int8", "fp8", "nf4"]:
        """Bits of the frozen transformer, by whichever name they were asked for."""
        return "fp8" if self.fp8_base else self.base_quantization
