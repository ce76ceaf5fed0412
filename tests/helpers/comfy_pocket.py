"""The bundled model's text encoders and transformer in ComfyUI's own code.

ComfyUI's text code has SD 3.5's sizes hard-coded, so it can't open the bundled model's folder as it is. This is all
that differs here: ComfyUI's tokenizer, CLIP and T5 classes get the bundled model's configurations and weights; its
vocabulary is padded with zeros to 49408 rows; and the three outputs are joined at the bundled model's width instead of
4096. The bundled VAE doesn't fit ComfyUI's, which has attention in the middle and norms with 32 groups.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import SD3Transformer2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoTokenizer

from tests.helpers.comfy_checkout import in_original_layout
from tests.helpers.places import ROOT

POCKET = ROOT / "pocket" / "model"
LENGTH = 16


def config_of(part: str) -> dict[str, Any]:
    return json.loads((POCKET / part / "config.json").read_text())


def clip_of_pocket(embeddings: Path) -> Any:
    """ComfyUI's CLIP object with the bundled model's tokenizers and text encoders.

    Args:
        embeddings: folder of textual inversions.
    """
    import comfy.sd
    from comfy.sd1_clip import SDClipModel, SDTokenizer
    from comfy.text_encoders import sd3_clip, t5

    class Tokenizers(sd3_clip.SD3Tokenizer):
        def __init__(self, embedding_directory: Any = None, tokenizer_data: Any = None) -> None:
            common = {"embedding_directory": embedding_directory, "tokenizer_class": AutoTokenizer}
            clip = {**common, "max_length": LENGTH, "embedding_size": config_of("text_encoder")["hidden_size"]}
            self.clip_l = SDTokenizer(str(POCKET / "tokenizer"), embedding_key="clip_l", **clip)
            self.clip_g = SDTokenizer(str(POCKET / "tokenizer_2"), embedding_key="clip_g", pad_with_end=False, **clip)
            self.t5xxl = SDTokenizer(
                str(POCKET / "tokenizer_3"), pad_with_end=False, has_start_token=False, pad_to_max_length=False,
                max_length=10**8, min_length=LENGTH, embedding_key="t5xxl",
                embedding_size=config_of("text_encoder_3")["d_model"], **common,
            )  # fmt: skip

    class Encoders(sd3_clip.SD3ClipModel):
        def __init__(self, device: str = "cpu", dtype: Any = None, model_options: Any = None) -> None:
            nn.Module.__init__(self)
            self.dtypes = {dtype}
            for name, part in (("clip_l", "text_encoder"), ("clip_g", "text_encoder_2")):
                told = config_of(part)
                marks = {"start": told["bos_token_id"], "end": told["eos_token_id"], "pad": told["pad_token_id"]}
                clip = SDClipModel(
                    textmodel_json_config=told, max_length=LENGTH, special_tokens=marks, dtype=dtype, layer="hidden",
                    layer_idx=told["num_hidden_layers"] - 2, layer_norm_hidden_state=False,
                )  # fmt: skip
                setattr(self, name, clip)
                fill(clip.transformer, part)
            told = {**config_of("text_encoder_3"), "dense_act_fn": "gelu_pytorch_tanh"}  # another name for gelu_new
            marks = {"end": told["eos_token_id"], "pad": told["pad_token_id"]}
            self.t5xxl = SDClipModel(textmodel_json_config=told, special_tokens=marks, dtype=dtype, model_class=t5.T5)
            fill(self.t5xxl.transformer, "text_encoder_3")

        def encode_token_weights(self, token_weight_pairs: dict) -> tuple[Tensor, Tensor, dict]:
            """The same as ComfyUI's, at another width."""
            left, left_pooled = self.clip_l.encode_token_weights(token_weight_pairs["l"])
            right, right_pooled = self.clip_g.encode_token_weights(token_weight_pairs["g"])
            behind, _ = self.t5xxl.encode_token_weights(token_weight_pairs["t5xxl"])[:2]
            clips = torch.cat([left, right], dim=-1)
            clips = nn.functional.pad(clips, (0, behind.shape[-1] - clips.shape[-1]))
            return torch.cat([clips, behind], dim=-2), torch.cat([left_pooled, right_pooled], dim=-1), {}

    return comfy.sd.CLIP(
        SimpleNamespace(params={}, clip=Encoders, tokenizer=Tokenizers),
        embedding_directory=[str(embeddings)],
        model_options={"dtype": torch.float32},
    )


def fill(encoder: nn.Module, part: str) -> None:
    """Loads the bundled weights into one of ComfyUI's encoders, which must use all of them."""
    wanted = encoder.state_dict()
    given = {key: tensor.float() for key, tensor in load_file(POCKET / part / "model.safetensors").items()}
    for key, tensor in given.items():
        if key.endswith("token_embedding.weight"):
            given[key] = nn.functional.pad(tensor, (0, 0, 0, len(wanted[key]) - len(tensor)))
    missing, unexpected = encoder.load_state_dict(given, strict=False)
    assert not [key for key in missing if "position_ids" not in key], missing
    assert not unexpected, unexpected


def model_of_pocket(folder: Path) -> Any:
    """ComfyUI's MODEL with the bundled transformer, and the scale and shift of the bundled latents."""
    import comfy.sd

    transformer = SD3Transformer2DModel.from_pretrained(POCKET / "transformer", torch_dtype=torch.float32)
    save_file(in_original_layout(transformer), folder / "model.safetensors")
    model = comfy.sd.load_diffusion_model(str(folder / "model.safetensors"), {"dtype": torch.float32})
    vae = config_of("vae")
    model.model.latent_format.scale_factor = vae["scaling_factor"]
    model.model.latent_format.shift_factor = vae["shift_factor"]
    return model
