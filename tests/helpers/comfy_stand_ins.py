"""Small stand-ins for the parts of ComfyUI that the nodes use, with the names and parameters of ComfyUI 0.3.64.

`tests/comfyui/test_checkout.py` compares them with the real ones if a checkout is given.
"""

from __future__ import annotations

import enum
import re
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from transformers import AutoTokenizer

from tests.helpers.tiny import LENGTH, TOKENIZERS

BLOCKS, WIDTH = 3, 8
TEXT = "a sks dog city"
CLIP_TOKENS, T5_TOKENS = 1, 1
CONTEXT = 16
BASE = "lora_unet_joint_blocks_0_x_block_mlp_fc2"
"""kohya's name for the only layer of the stand-in's transformer."""


class EnumHookScope(enum.Enum):
    AllConditioning = "all_conditioning"
    HookedOnly = "hooked_only"


class TransformerOptionsHook:
    def __init__(self, transformers_dict=None, hook_scope=EnumHookScope.AllConditioning):
        self.transformers_dict, self.hook_scope = transformers_dict, hook_scope


class HookGroup:
    def __init__(self):
        self.hooks = []

    def add(self, hook):
        self.hooks.append(hook)


def set_hooks_for_conditioning(cond, hooks, append_hooks=True, cache=None):
    return [[states, {**told, "hooks": hooks}] for states, told in cond]


class WrappersMP:
    APPLY_MODEL = "apply_model"


def escape_important(text):
    return text.replace("\\)", "\0\1").replace("\\(", "\0\2")


def unescape_important(text):
    return text.replace("\0\1", ")").replace("\0\2", "(")


def token_weights(string, current_weight):
    """Handles no nesting; the tests with ComfyUI's real code cover it."""
    parts = re.findall(r"\(([^()]*?)(?::([\d.]+))?\)|([^()]+)", string)
    return [(plain or inside, float(weight or 1.1) if inside else current_weight) for inside, weight, plain in parts]


def model_lora_keys_unet(model, key_map={}):  # noqa: B006
    return {**key_map, BASE: next(iter(model.state_dict()))}


def load_lora_for_models(model, clip, lora, strength_model, strength_clip):
    return SimpleNamespace(
        model=model.model, loras=[*getattr(model, "loras", []), (sorted(lora), strength_model)]
    ), clip


class SDTokenizer:
    """One of the tiny model's tokenizers, wrapped as ComfyUI wraps CLIP's and T5's."""

    embedding_identifier = "embedding:"
    tokenizer_adds_end_token = True

    def __init__(self, folder: str, key: str, begin: int, length: int, embedding_directory: str | None = None):
        self.tokenizer = AutoTokenizer.from_pretrained(TOKENIZERS / folder)
        self.embedding_key, self.tokens_start, self.embedding_directory = key, begin, embedding_directory
        self.chunked, self.length = begin == 1, length

    def tokenize_with_weights(self, text: str, return_word_ids=False, tokenizer_options={}, **kwargs):  # noqa: B006
        whole = self.tokenizer("")["input_ids"]
        begin, end = [(token, 1.0, 0) for token in whole[:-1]], [(whole[-1], 1.0, 0)]
        room = self.length - 2 if self.chunked else 10**6
        words = []
        for number, (piece, weight) in enumerate(token_weights(escape_important(text), 1.0), 1):
            ids = self.tokenizer(unescape_important(piece))["input_ids"][self.tokens_start : -1]
            words += [(token, weight, number) for token in ids]
        chunks = [words[start : start + room] for start in range(0, len(words), room)] or [[]]
        least = self.length if self.chunked else tokenizer_options.get(f"{self.embedding_key}_min_length", self.length)
        filled = [begin + chunk + end for chunk in chunks]
        filled = [chunk + [(0, 1.0, 0)] * (least - len(chunk)) for chunk in filled]
        return filled if return_word_ids else [[entry[:2] for entry in chunk] for chunk in filled]


class Patcher:
    """The part of a ModelPatcher that carries attachments."""

    def __init__(self):
        self.attachments = {}

    def set_attachments(self, key: str, attachment):
        self.attachments[key] = attachment

    def get_attachment(self, key: str):
        return self.attachments.get(key, None)


class CLIP:
    """SD3's text encoders. Each token ID has its own state, so positions can be read from the context."""

    def __init__(self):
        self.tokenizer = SimpleNamespace(
            clip_l=SDTokenizer("tokenizer", "clip_l", 1, LENGTH),
            clip_g=SDTokenizer("tokenizer_2", "clip_g", 1, LENGTH),
            t5xxl=SDTokenizer("tokenizer_3", "t5xxl", 0, 4),
        )
        self.cond_stage_model = SimpleNamespace(clip_l="loaded", clip_g="loaded", t5xxl="loaded")
        self.patcher, self.tokenizer_options = Patcher(), {}

    def clone(self):
        copy = CLIP()
        copy.patcher.attachments = dict(self.patcher.attachments)
        copy.tokenizer_options = dict(self.tokenizer_options)
        return copy

    def set_tokenizer_option(self, option_name, value):
        self.tokenizer_options[option_name] = value

    def tokenize(self, text, return_word_ids=False, **kwargs):
        kwargs["tokenizer_options"] = self.tokenizer_options
        names = {"g": "clip_g", "l": "clip_l", "t5xxl": "t5xxl"}
        wrapped = {name: getattr(self.tokenizer, attribute) for name, attribute in names.items()}
        return {name: one.tokenize_with_weights(text, return_word_ids, **kwargs) for name, one in wrapped.items()}

    def encode_from_tokens_scheduled(self, tokens, unprojected=False, add_dict={}, show_pbar=True):  # noqa: B006
        clip, t5 = ([token for chunk in tokens[name] for token, _ in chunk] for name in ("l", "t5xxl"))
        context = torch.tensor([*clip, *t5]).float()[None, :, None] + torch.arange(1.0, CONTEXT + 1)
        return [[context, {"pooled_output": torch.zeros(1, 4), **add_dict}]]


class Model:
    """A MODEL whose transformer passes the text stream through its blocks as SD3's does, and does nothing else."""

    def __init__(self, blocks: int = 3, width: int = 8):
        torch.manual_seed(1)
        self.embed = torch.nn.Linear(CONTEXT, width)
        self.model = SimpleNamespace(
            diffusion_model=SimpleNamespace(joint_blocks=[None] * blocks, hidden_size=width),
            state_dict=lambda: {"diffusion_model.joint_blocks.0.x_block.mlp.fc2.weight": torch.zeros(32, 128)},
        )

    @torch.no_grad()
    def text_streams(self, hooks: HookGroup | None, context: torch.Tensor, earlier: dict | None = None) -> list:
        """The input of each block, (rows, tokens, width) per block. A block adds 1 to it.

        Args:
            earlier: patches of other nodes, by slot.
        """
        seen = []
        options = {"patches_replace": {"dit": dict(earlier or {})}} if earlier else {}

        def call(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs):
            text, slots = self.embed(c_crossattn), transformer_options.get("patches_replace", {}).get("dit", {})

            def block(args):
                seen.append(args["txt"].clone())
                return {"txt": args["txt"] + 1, "img": args["img"]}

            for index in range(len(self.model.diffusion_model.joint_blocks)):
                args = {"img": None, "txt": text, "vec": None, "transformer_options": transformer_options}
                patch = slots.get(("double_block", index))
                text = (patch(args, {"original_block": block}) if patch else block(args))["txt"]
            return x

        for hook in hooks.hooks if hooks else ():
            for wrapper in hook.transformers_dict["wrappers"][WrappersMP.APPLY_MODEL]["purecc"]:
                call = _wrapped(wrapper, call, self.model)
        call(torch.zeros(len(context)), torch.zeros(len(context)), None, context, None, options)
        return seen


def _wrapped(wrapper, call, model) -> Any:
    def executor(*args, **kwargs):
        return call(*args, **kwargs)

    executor.class_obj = model
    return lambda *args, **kwargs: wrapper(executor, *args, **kwargs)


def modules(models: Path) -> dict[str, ModuleType]:
    """The modules to put into `sys.modules`.

    Args:
        models: the folder that holds `loras` and `embeddings`.
    """

    def get_full_path(folder_name: str, filename: str) -> str | None:
        path = models / folder_name / filename
        return str(path) if path.is_file() else None

    def get_full_path_or_raise(folder_name: str, filename: str) -> str:
        path = get_full_path(folder_name, filename)
        if path is None:
            raise FileNotFoundError(filename)
        return path

    def get_filename_list(folder_name: str) -> list[str]:
        return sorted(path.name for path in (models / folder_name).iterdir())

    parts = {
        "comfy": {},
        "comfy.hooks": {
            "EnumHookScope": EnumHookScope,
            "HookGroup": HookGroup,
            "TransformerOptionsHook": TransformerOptionsHook,
            "set_hooks_for_conditioning": set_hooks_for_conditioning,
        },
        "comfy.patcher_extension": {"WrappersMP": WrappersMP},
        "comfy.lora": {"model_lora_keys_unet": model_lora_keys_unet},
        "comfy.sd": {"load_lora_for_models": load_lora_for_models},
        "comfy.sd1_clip": {
            "escape_important": escape_important,
            "unescape_important": unescape_important,
            "token_weights": token_weights,
        },
        "folder_paths": {
            "get_full_path": get_full_path,
            "get_full_path_or_raise": get_full_path_or_raise,
            "get_filename_list": get_filename_list,
        },
    }
    made = {}
    for name, members in parts.items():
        made[name] = ModuleType(name)
        vars(made[name]).update(members)
        if "." in name:
            setattr(made["comfy"], name.partition(".")[2], made[name])
    return made
