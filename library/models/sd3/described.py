"""Identifies Stability's models, and describes them for the metadata of LoRA files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def family_of(transformer_config: Mapping[str, Any]) -> str:
    """Which of Stability's models it is, by its architecture: "3-medium", "3-5-medium" or "3-5-large"."""
    if transformer_config.get("dual_attention_layers"):
        return "3-5-medium"
    return "3-5-large" if transformer_config.get("qk_norm") else "3-medium"


def described(transformer_config: Mapping[str, Any]) -> dict[str, str]:
    """The model as kohya's and Stability's metadata describe it."""
    family = family_of(transformer_config)
    return {
        "ss_network_module": "networks.lora_sd3",
        "ss_base_model_version": f"sd{family}",
        "modelspec.architecture": f"stable-diffusion-{family}/lora",
        "modelspec.implementation": "https://github.com/Stability-AI/sd3.5",
    }
