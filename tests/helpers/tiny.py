"""A tiny SD3.5-like model with random weights: every shape and code path of the real one, in milliseconds."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

TOKENIZERS = Path(__file__).parent / "tokenizers"
LENGTH = 10
"""Number of tokens from each tokenizer."""
BLOCKS, WIDTH = 3, 32


SD35_LARGE: dict[str, Any] = {"dual_attention_layers": (), "blocks": 4}
SD3_MEDIUM: dict[str, Any] = {"dual_attention_layers": (), "qk_norm": None}
"""How 3.5 Medium's siblings differ: no dual attention; one has more blocks, one doesn't normalise queries and keys."""


def sd3_medium_transformer() -> SD3Transformer2DModel:
    """A transformer that is built like SD 3 Medium's."""
    return tiny_transformer(**SD3_MEDIUM)


def tiny_transformer(
    seed: int = 0, dual_attention_layers=(0, 1), qk_norm="rms_norm", blocks: int = BLOCKS
) -> SD3Transformer2DModel:
    """Three blocks, the first two with dual attention; no weight is zero, so everything has an effect."""
    torch.manual_seed(seed)
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=blocks,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=48,
        caption_projection_dim=WIDTH,
        pooled_projection_dim=32,
        pos_embed_max_size=8,
        dual_attention_layers=dual_attention_layers,
        qk_norm=qk_norm,
    )
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return transformer


def inputs(rows: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        "hidden_states": torch.randn(rows, 4, 8, 8, generator=generator),
        "timestep": torch.linspace(100, 900, rows),
        "encoder_hidden_states": torch.randn(rows, 6, 48, generator=generator),
        "pooled_projections": torch.randn(rows, 32, generator=generator),
    }


def velocity(transformer: SD3Transformer2DModel, **given: torch.Tensor) -> torch.Tensor:
    return transformer(**(given or inputs()), return_dict=False)[0]


def tiny_vae() -> AutoencoderKL:
    """Makes latents with 4 channels and a quarter of the picture's side."""
    return AutoencoderKL(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=32,
        scaling_factor=0.9,
        shift_factor=0.1,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
    )


def save_tiny_model(folder: Path, **of_transformer: Any) -> Path:
    """Writes a complete `StableDiffusion3Pipeline`; its tokenizers know a few words, such as dog, house, city and sks.

    Args:
        of_transformer: see `tiny_transformer`.
    """
    names = ("tokenizer", "tokenizer_2", "tokenizer_3")
    tokenizers = [AutoTokenizer.from_pretrained(TOKENIZERS / name) for name in names]
    torch.manual_seed(1)
    clip = CLIPTextConfig(
        vocab_size=tokenizers[0].vocab_size,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        projection_dim=16,
        bos_token_id=655,
        eos_token_id=656,
    )
    t5 = T5Config(vocab_size=len(tokenizers[2]), d_model=48, d_kv=12, d_ff=64, num_layers=1, num_heads=4)
    vae = tiny_vae()
    pipeline = StableDiffusion3Pipeline(
        transformer=tiny_transformer(**of_transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        text_encoder=CLIPTextModelWithProjection(clip),
        tokenizer=tokenizers[0],
        text_encoder_2=CLIPTextModelWithProjection(clip),
        tokenizer_2=tokenizers[1],
        text_encoder_3=T5EncoderModel(t5),
        tokenizer_3=tokenizers[2],
    )
    if folder.exists():
        shutil.rmtree(folder)
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def tiny_settings(model: Path, folder: Path) -> dict[str, Any]:
    """Settings of a small, quick run of the tiny model with both stages and all its files in one folder."""
    return {
        "pretrained_model_name_or_path": str(model),
        "t5xxl_max_token_length": LENGTH,
        "mixed_precision": "no",
        "gradient_checkpointing": False,
        "output_dir": str(folder / "output"),
        "cache_dir": str(folder / "cache"),
        "output_name": "tiny",
        "log_with": "none",
        "extractor_train_steps": 2,
        "max_train_steps": 2,
        "eta": 0.5,
        "learning_rate": 1e-2,
        "replay_images": 4,
        "network_dim": 4,
        "network_alpha": 4.0,
        "anchor_weight": 1.0,
        "replay_weight": 1.0,
        "surroundings_weight": 3.0,
        "ties": "all",
        "word_weight": 0.0,
        "context_train_steps": 2,
        "replay_sample_steps": 2,
        "sample_steps": 2,
        "sample_seeds": 1,
        "sample_strengths": [],
        "replay_prompts": str(folder / "replay.txt"),
        "sample_prompts": str(folder / "samples.txt"),
    }
