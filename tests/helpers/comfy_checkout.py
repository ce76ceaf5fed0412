"""ComfyUI's own code, from the checkout in the environment variable COMFYUI_DIR, and models for it."""

from __future__ import annotations

import copy
import importlib.util
import os
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from diffusers import SD3Transformer2DModel
from safetensors.torch import save_file
from torch import Tensor, nn

from library.adapters.files import SavedConcept, save_concepts, save_lora
from library.adapters.network import AdapterNetwork
from library.config.dataset import Concept
from library.data.texts import TriggerLayout
from library.hierarchical_embedding_injector import ConceptEmbeddings, HierarchicalEmbeddingInjector
from library.models.loading.model_files import FolderFiles
from library.models.memory.residence import Residence
from library.models.sd3.layouts.kohya import FUSED, SINGLE
from library.models.sd3.model import SD3Model
from tests.helpers.places import ROOT

CHECKOUT = os.environ.get("COMFYUI_DIR")
WHY_NOT = "COMFYUI_DIR names no checkout of ComfyUI"
PACKAGE = ROOT / "comfyui_purecc"
BLOCKS, CONTEXT, POOLED, LATENT = 3, 48, 32, 8
T5_LENGTH = 96
ALL_LAYERS = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]
ALL_LAYERS += ["net.0.proj", "net.2", "norm1.linear", "norm1_context.linear"]
TRIGGERS = {"dog": "sks", "style": "ohwx"}
NAMES = {
    "x_block_attn_qkv": "x_block.attn.qkv",
    "context_block_attn_qkv": "context_block.attn.qkv",
    "x_block_attn2_qkv": "x_block.attn2.qkv",
    "x_block_attn_proj": "x_block.attn.proj",
    "context_block_attn_proj": "context_block.attn.proj",
    "x_block_attn2_proj": "x_block.attn2.proj",
    "x_block_mlp_fc1": "x_block.mlp.fc1",
    "x_block_mlp_fc2": "x_block.mlp.fc2",
    "context_block_mlp_fc1": "context_block.mlp.fc1",
    "context_block_mlp_fc2": "context_block.mlp.fc2",
    "x_block_adaLN_modulation_1": "x_block.adaLN_modulation.1",
    "context_block_adaLN_modulation_1": "context_block.adaLN_modulation.1",
}
"""Names of layers: kohya's and the original model's."""
NORMS = {
    "x_block.attn.ln_q": "attn.norm_q",
    "x_block.attn.ln_k": "attn.norm_k",
    "x_block.attn2.ln_q": "attn2.norm_q",
    "x_block.attn2.ln_k": "attn2.norm_k",
    "context_block.attn.ln_q": "attn.norm_added_q",
    "context_block.attn.ln_k": "attn.norm_added_k",
}
OUTSIDE = {
    "x_embedder.proj": "pos_embed.proj",
    "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
    "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
    "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
    "context_embedder": "context_embedder",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
    "final_layer.linear": "proj_out",
}


def import_comfyui() -> None:
    """Imports ComfyUI's modules, on the CPU. torchvision and torchaudio are not used and may be missing."""
    if CHECKOUT not in sys.path:
        sys.path.append(CHECKOUT)

    missing = [name for name in ("torchvision", "torchaudio") if importlib.util.find_spec(name) is None]
    finder = _Stubs(missing)
    sys.meta_path.append(finder)
    try:
        import comfy.cli_args

        comfy.cli_args.args.cpu = True
        import comfy.controlnet  # which ComfyUI's own nodes import
        import comfy.sample
        import comfy.sd
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.partition(".")[0] in missing]:
            del sys.modules[name]


class _Stubs(MetaPathFinder, Loader):
    """Provides modules of packages that are not installed; anything can be imported from them."""

    def __init__(self, packages: list[str]) -> None:
        self.packages = packages

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self, is_package=True) if fullname.partition(".")[0] in self.packages else None

    def exec_module(self, module: ModuleType) -> None:
        def made(attribute: str) -> type:
            if attribute.startswith("__"):
                raise AttributeError(attribute)
            return type(attribute, (), {})

        module.__getattr__ = made


def load_package(name: str) -> ModuleType:
    """Loads the node package under its own name, as ComfyUI loads a folder in custom_nodes."""
    spec = importlib.util.spec_from_file_location(name, PACKAGE / "__init__.py")
    package = importlib.util.module_from_spec(spec)
    sys.modules[name] = package
    spec.loader.exec_module(package)
    return package


def transformer_for_comfyui() -> SD3Transformer2DModel:
    """A tiny one that ComfyUI recognises: 16 channels, as many heads of width 64 as blocks; no weight is zero."""
    torch.manual_seed(0)
    transformer = SD3Transformer2DModel(
        sample_size=LATENT,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=BLOCKS,
        attention_head_dim=64,
        num_attention_heads=BLOCKS,
        joint_attention_dim=CONTEXT,
        caption_projection_dim=64 * BLOCKS,
        pooled_projection_dim=POOLED,
        pos_embed_max_size=12,
        dual_attention_layers=(0, 1),
        qk_norm="rms_norm",
    )
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.06)
    return transformer.requires_grad_(False)


def in_original_layout(transformer: SD3Transformer2DModel) -> dict[str, Tensor]:
    """The tensors of a transformer, as in Stability's own file."""
    given = {name: tensor.detach().clone() for name, tensor in transformer.state_dict().items()}
    tensors = {"pos_embed": given["pos_embed.pos_embed"]}

    def put(original: str, parts: tuple[str, ...], swap: bool = False) -> None:
        for kind in ("weight", "bias"):
            if f"{parts[0]}.{kind}" in given:
                tensor = torch.cat([given[f"{part}.{kind}"] for part in parts])
                tensors[f"{original}.{kind}"] = torch.cat(tensor.chunk(2)[::-1]) if swap else tensor

    for original, name in OUTSIDE.items():
        put(original, (name,), swap=name == "norm_out.linear")
    blocks = len(transformer.transformer_blocks)
    for block in range(blocks):
        here, there = f"transformer_blocks.{block}", f"joint_blocks.{block}"
        for kohya, parts in {**FUSED, **{key: (part,) for key, part in SINGLE.items()}}.items():
            swap = kohya == "context_block_adaLN_modulation_1" and block == blocks - 1
            put(f"{there}.{NAMES[kohya]}", tuple(f"{here}.{part}" for part in parts), swap)
        for original, norm in NORMS.items():
            put(f"{there}.{original}", (f"{here}.{norm}",))
    return {f"model.diffusion_model.{name}": tensor.contiguous() for name, tensor in tensors.items()}


class TinyEncoders(nn.Module):
    """Replaces SD3's three text encoders behind ComfyUI's real tokenizers: any width, and fast."""

    def __init__(self, context: int = CONTEXT, pooled: int = POOLED, **_: Any) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.clip_l, self.clip_g = nn.Embedding(49408, context), nn.Embedding(49408, context)
        self.t5xxl = nn.Embedding(32128, context)
        self.pool = nn.Linear(context, pooled)
        self.dtypes = {torch.float32}

    def reset_clip_options(self) -> None:
        """Does nothing: it has no options."""

    def set_clip_options(self, options: dict) -> None:
        """Does nothing: it has no options."""

    def encode_token_weights(self, lists: dict[str, list]) -> tuple[Tensor, Tensor]:
        """The context (1, tokens, width) and the pooled state (1, pooled). Tokens of a part depend on each other."""
        parts = {}
        for name, encoder in (("l", self.clip_l), ("g", self.clip_g), ("t5xxl", self.t5xxl)):
            if encoder is not None:
                states = encoder(torch.tensor([token for chunk in lists[name] for token, *_ in chunk]))
                parts[name] = states + states.mean(0)
        clips = [parts[name] for name in ("l", "g") if name in parts]
        context = [sum(clips)] if clips else []
        context = torch.cat([*context, *([parts["t5xxl"]] if "t5xxl" in parts else [])])
        return context[None].detach(), self.pool(context.mean(0))[None].detach()


def clip_of_comfyui(**widths: int) -> Any:
    """ComfyUI's CLIP object with its real tokenizers and tiny encoders."""
    import comfy.sd
    from comfy.text_encoders.sd3_clip import SD3Tokenizer

    return comfy.sd.CLIP(SimpleNamespace(params=widths, clip=TinyEncoders, tokenizer=SD3Tokenizer))


def why_unknown(transformer: SD3Transformer2DModel) -> str | None:
    """Why ComfyUI does not recognise a transformer as SD3's; None if it does."""
    told = transformer.config
    if told.in_channels != 16:
        return f"ComfyUI knows SD3 by 16 latent channels; it has {told.in_channels}"
    if told.num_attention_heads != told.num_layers or told.attention_head_dim != 64:
        return f"ComfyUI wants as many heads of 64 as blocks; it has {told.num_attention_heads} and {told.num_layers}"
    return None


def make_world(folder: Path, transformer: SD3Transformer2DModel | None = None) -> SimpleNamespace:
    """The trainer's model with a LoRA, the files it writes, and the same model and nodes in ComfyUI.

    Args:
        transformer: one that ComfyUI recognises; None: a tiny one.
    """
    import_comfyui()
    import comfy.sd
    import folder_paths

    nodes = sys.modules[f"{load_package('purecc_in_comfyui').__name__}.nodes"]
    for kind in ("loras", "embeddings"):
        (folder / kind).mkdir()
        folder_paths.add_model_folder_path(kind, str(folder / kind), is_default=True)
    transformer = transformer or transformer_for_comfyui()
    told = transformer.config
    save_file(in_original_layout(transformer), folder / "model.safetensors")
    network = AdapterNetwork({"transformer_blocks": transformer.transformer_blocks}, ALL_LAYERS)
    generator = torch.Generator().manual_seed(5)
    network.add("student", 4, 6.0, generator)
    for layer in network.layers.values():
        torch.nn.init.normal_(layer.adapters["student"].up, std=0.3, generator=generator)
    save_lora(folder / "loras", "dog", network.weights("student"), "float", {})
    save_lora(folder / "loras", "style", network.weights("student"), "float", {})
    clip = clip_of_comfyui(context=told.joint_attention_dim, pooled=told.pooled_projection_dim)
    layouts, embeddings = {}, {}
    trainer = trainer_tokenizing_like(clip)
    for name, trigger in TRIGGERS.items():
        concept = Concept(name=name, trigger=trigger, class_word=name, kind="subject", target=f"[V] {name}")
        layout = layouts[name] = TriggerLayout(concept, trainer)
        vectors = torch.randn(told.num_layers, layout.vectors, told.caption_projection_dim, generator=generator)
        embeddings[name] = ConceptEmbeddings(vectors, told.num_layers)
        tokens = {"clip": layout.counts[0], "t5": layout.counts[1]}
        saved = SavedConcept(name, trigger, name, "subject", concept.target, tokens, True, {"t5": T5_LENGTH})
        place = folder / ("loras" if name == "dog" else "embeddings")
        save_concepts(place / f"{name}_concept.safetensors", {name: vectors}, [saved])
    return SimpleNamespace(
        folder=folder,
        nodes=nodes,
        clip=clip,
        trainer=trainer,
        layouts=layouts,
        embeddings=embeddings,
        transformer=transformer,
        network=network,
        injector=HierarchicalEmbeddingInjector(transformer.transformer_blocks),
        model=comfy.sd.load_diffusion_model(str(folder / "model.safetensors")),
    )


def trainer_tokenizing_like(clip: Any) -> SD3Model:
    """The trainer's model with ComfyUI's own tokenizers."""
    cpu = {"device": torch.device("cpu"), "dtype": torch.float32}
    trainer = SD3Model(
        FolderFiles(PACKAGE.parent / "pocket" / "model"), **cpu, t5_length=T5_LENGTH, residence=Residence()
    )
    tokenizers = [copy.deepcopy(getattr(clip.tokenizer, name).tokenizer) for name in ("clip_l", "clip_g", "t5xxl")]
    tokenizers[0].model_max_length = 77  # as in SD 3.5's folder
    trainer.__dict__["tokenizers"] = tokenizers
    return trainer
