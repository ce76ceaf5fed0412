"""Settings of the pretrained model: where its files are, and how its weights are kept in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from library.config.fields import setting
from library.config.gpus import CARDS
from library.errors import ConfigError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """[model]: the base model, its precision, and how it uses memory."""

    pretrained_model_name_or_path: str = setting(
        help="Base model: a .safetensors file of Stable Diffusion 3.5 Medium, 3.5 Large or 3 Medium as for ComfyUI, or "
        "such a model in diffusers format (a folder, or a name on huggingface.co).",
        holds="path",
    )
    vae: str | None = setting(None, "The VAE's .safetensors file, if the model file doesn't contain it.", holds="path")
    offline: bool = setting(
        False, "Never use the network. Files that were downloaded before still work.", shapes_training=False
    )
    mixed_precision: Literal["no", "fp16", "bf16"] = setting(
        "bf16",
        'Precision of the frozen weights and of every pass. "no" is float32. The LoRA itself is float32, '
        "unless full_bf16 is on.",
    )
    device: str = setting("auto", 'Device to train on: "auto", "cpu", "cuda", "cuda:1" ...', shapes_training=False)
    gradient_checkpointing: bool = setting(
        True, "Recompute blocks in the backward pass: much less memory, more time.", shapes_training=False
    )
    checkpointed_blocks: Literal["auto", "all"] | int = setting(
        "auto",
        'Number of blocks that gradient checkpointing recomputes, counted from the first, or "all". "auto" '
        "recomputes as few as the free memory of an NVIDIA GPU allows; on other devices, all.",
        at_least=0,
        shapes_training=False,
    )
    cpu_offload_checkpointing: bool = setting(
        False,
        "Offload checkpointed activations to CPU memory: less GPU memory, more time, same result.",
        shapes_training=False,
    )
    base_quantization: Literal["none", "int8", "fp8", "nf4"] = setting(
        "none",
        "Bits of the frozen transformer: 16 (none), 8 (int8 is more exact than fp8), or 4 with bitsandbytes "
        "(nf4: least memory, least exact). Activations stay in mixed_precision.",
    )
    fp8_base: bool = setting(False, 'Same as base_quantization = "fp8".')
    blocks_to_swap: int = setting(
        0,
        "Number of blocks kept in CPU memory and copied to the GPU when needed: less GPU memory, more time, "
        "same result. Needs gradient_checkpointing.",
        at_least=0,
        shapes_training=False,
    )
    xformers: bool = setting(False, "Use xformers for attention. Needs an NVIDIA GPU.", shapes_training=False)
    sdpa: bool = setting(
        True,
        "Use PyTorch's own attention if xformers is off or can't work. Off: stop with an error instead.",
        shapes_training=False,
    )
    sdpa_backend: Literal["auto", "flash", "efficient", "cudnn", "math"] = setting(
        "auto", "Preferred kernel for PyTorch's own attention.", shapes_training=False
    )
    torch_compile: bool = setting(
        False, "Compile the feed-forward layers with torch.compile: slower start, faster steps.", shapes_training=False
    )

    vae_tiling: bool = setting(
        False,
        "Decode contact sheets in tiles: less memory, faint seams. Training is not affected.",
        shapes_training=False,
    )
    vram_gb: float | None = setting(
        None,
        "GPU memory in GiB to plan for. Unset: the memory of your NVIDIA GPU.",
        above=0,
        shapes_training=False,
    )
    card: str | None = setting(
        None,
        'GPU to predict memory and time for, such as "RTX 3060". Known: ' + ", ".join(CARDS) + ". Unset: your own.",
        shapes_training=False,
    )
    auto_fit: bool = setting(
        False,
        "If the run doesn't fit in memory, save memory step by step: recompute all blocks, make predictions "
        "one by one, decode in tiles, swap blocks and, only before training starts, quantize the base model.",
        shapes_training=False,
    )

    def __post_init__(self) -> None:
        if self.fp8_base and self.base_quantization not in ("none", "fp8"):
            raise ConfigError(
                f'model: fp8_base = true and base_quantization = "{self.base_quantization}" can\'t be combined.',
                "Remove one of them.",
            )
        if self.blocks_to_swap and not self.gradient_checkpointing:
            raise ConfigError(
                "model: blocks_to_swap needs gradient_checkpointing = true, so that swapped blocks are loaded again "
                "for the backward pass.",
                "Set gradient_checkpointing = true.",
            )
        if self.card is not None and self.card not in CARDS:
            raise ConfigError(f'model: card = "{self.card}" is not a known GPU.', did_you_mean(self.card, CARDS))
        if not self.sdpa and not self.xformers:
            raise ConfigError(
                "model: sdpa and xformers are both false; one of them must compute attention.", "Set sdpa = true."
            )

    @property
    def quantization(self) -> Literal["none", "int8", "fp8", "nf4"]:
        """Bits of the frozen transformer, from whichever setting gave them."""
        return "fp8" if self.fp8_base else self.base_quantization
