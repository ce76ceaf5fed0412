"""Stable Diffusion 3.5 Medium as configurations alone: a folder that can be counted, though it holds no weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

TOKENIZERS = Path(__file__).parent.parent / "pocket" / "model"
"""The small model's: counting needs as many tokens as the real ones give, not their words."""
CLIP_TOKENS = 77


def _clip(width: int, layers: int, heads: int) -> dict[str, Any]:
    return {
        "architectures": ["CLIPTextModelWithProjection"],
        "model_type": "clip_text_model",
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "projection_dim": width,
        "max_position_embeddings": CLIP_TOKENS,
        "vocab_size": 49408,
    }


CONFIGS: dict[str, dict[str, Any]] = {
    "transformer": {
        "_class_name": "SD3Transformer2DModel",
        "sample_size": 128,
        "patch_size": 2,
        "in_channels": 16,
        "out_channels": 16,
        "num_layers": 24,
        "attention_head_dim": 64,
        "num_attention_heads": 24,
        "joint_attention_dim": 4096,
        "caption_projection_dim": 1536,
        "pooled_projection_dim": 2048,
        "pos_embed_max_size": 384,
        "dual_attention_layers": list(range(13)),
        "qk_norm": "rms_norm",
    },
    "vae": {
        "_class_name": "AutoencoderKL",
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "layers_per_block": 2,
        "latent_channels": 16,
        "sample_size": 1024,
        "scaling_factor": 1.5305,
        "shift_factor": 0.0609,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    },
    "text_encoder": _clip(768, 12, 12),
    "text_encoder_2": _clip(1280, 32, 20),
    "text_encoder_3": {
        "architectures": ["T5EncoderModel"],
        "model_type": "t5",
        "d_model": 4096,
        "d_kv": 64,
        "d_ff": 10240,
        "num_layers": 24,
        "num_heads": 64,
        "vocab_size": 32128,
        "feed_forward_proj": "gated-gelu",
    },
}
"""config.json of each part that has weights."""


def write_full_size(folder: Path) -> Path:
    """Writes the folder; returns it."""
    for name in ("tokenizer", "tokenizer_2", "tokenizer_3", "scheduler"):
        shutil.copytree(TOKENIZERS / name, folder / name, dirs_exist_ok=True)
    for name in ("tokenizer", "tokenizer_2"):
        file = folder / name / "tokenizer_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "model_max_length": CLIP_TOKENS}))
    for name, config in CONFIGS.items():
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "config.json").write_text(json.dumps(config))
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusion3Pipeline"}))
    return folder
