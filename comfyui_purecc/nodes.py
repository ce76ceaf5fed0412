"""The nodes: load a concept, and encode prompts that may hold loaded concepts."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import comfy.lora
import comfy.sd
import folder_paths

from .concept_file import LoadedConcept, common_concepts, read_concepts, with_triggers
from .injection import Placement, bind
from .lora_file import check_fits, read_lora
from .trigger_positions import find_trigger

NONE = "none"
CONCEPT_FOLDERS = ("loras", "embeddings")
ATTACHED = "purecc_concepts"
"""The name under which the CLIP object carries loaded concepts to the next nodes."""
T5_MIN_LENGTH = "t5xxl_min_length"
"""ComfyUI's tokenizer option: T5 pads a prompt up to this length."""
CATEGORY = "PureCC"

STRENGTH = {"default": 1.0, "min": -10.0, "max": 10.0, "step": 0.01}
TEXT = {"multiline": True, "dynamicPrompts": True}


def loaded_concepts(clip: Any) -> tuple[LoadedConcept, ...]:
    """The concepts that earlier loaders have put on a CLIP object."""
    return clip.patcher.get_attachment(ATTACHED) or ()


def with_concepts(clip: Any, concepts: list[LoadedConcept]) -> Any:
    """A copy of a CLIP object that carries more concepts and pads T5 to the length they were trained with."""
    clip = clip.clone()
    clip.patcher.set_attachments(ATTACHED, common_concepts(loaded_concepts(clip), concepts))
    length = max([clip.tokenizer_options.get(T5_MIN_LENGTH, 0), *(concept.t5_length for concept in concepts)])
    if length:
        clip.set_tokenizer_option(T5_MIN_LENGTH, length)
    return clip


def encode(clip: Any, text: str) -> tuple[list, list[str]]:
    """A prompt as conditioning with the vectors of the concepts it names, and the triggers that it does not name."""
    concepts = loaded_concepts(clip)
    text = with_triggers(text, concepts)
    conditioning = clip.encode_from_tokens_scheduled(clip.tokenize(text))
    tokens = {concept: find_trigger(clip, text, concept) for concept in concepts}
    placements = [Placement.of(found, concept) for concept, found in tokens.items() if found]
    return bind(conditioning, placements), [concept.trigger for concept, found in tokens.items() if not found]


def concept_files() -> list[str]:
    """Names of the files that may hold a concept; those named `_concept` come first."""
    names = {name for folder in CONCEPT_FOLDERS for name in folder_paths.get_filename_list(folder)}
    files = [name for name in names if name.endswith(".safetensors")]
    return sorted(files, key=lambda name: ("concept" not in name, name))


def path_of_concept(name: str) -> str:
    """The file of a name from `concept_files`.

    Raises:
        ValueError: it is gone.
    """
    for folder in CONCEPT_FOLDERS:
        path = folder_paths.get_full_path(folder, name)
        if path is not None:
            return path
    raise ValueError(f"The file {name} is not in the folders {' and '.join(CONCEPT_FOLDERS)}.")


class PureCCConceptLoader:
    """Loads a PureCC LoRA and its concept's vectors, and encodes a prompt with them."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Applies a PureCC LoRA to SD 3.5 and encodes a prompt in which the trigger is replaced by the concept's own "
        "vectors in every block. Chain several loaders for several concepts; the last one's prompt can hold them all."
    )
    FUNCTION = "load"
    RETURN_TYPES = ("MODEL", "CLIP", "CONDITIONING")
    OUTPUT_TOOLTIPS = (
        "The model with the LoRA.",
        "The text encoders, which carry the concept to PureCC Prompt nodes and further loaders.",
        "The prompt, with the vectors of every concept in it.",
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        loras = [NONE, *folder_paths.get_filename_list("loras")]
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "SD 3.5, the model that the concept was trained on."}),
                "clip": ("CLIP", {"tooltip": "Its text encoders: CLIP-L, CLIP-G and T5-XXL."}),
                "lora_name": (loras, {"tooltip": "NAME.safetensors, in models/loras."}),
                "concept_name": (
                    [NONE, *concept_files()],
                    {"tooltip": "NAME_concept.safetensors, in models/loras or models/embeddings."},
                ),
                "text": ("STRING", {**TEXT, "tooltip": "The prompt. [V] stands for the trigger."}),
                "lora_strength": ("FLOAT", {**STRENGTH, "tooltip": "How strongly the LoRA acts; 1 as trained."}),
                "concept_strength": (
                    "FLOAT",
                    {**STRENGTH, "tooltip": "How far the vectors replace the trigger's own states; 1 as trained."},
                ),
            }
        }

    @classmethod
    def IS_CHANGED(cls, lora_name: str, concept_name: str, **_: Any) -> str:
        """A file that was retrained under its old name is loaded again."""
        paths = [folder_paths.get_full_path("loras", lora_name)] if lora_name != NONE else []
        paths += [path_of_concept(concept_name)] if concept_name != NONE else []
        states = [Path(path).stat() for path in paths if path]
        return str([(state.st_size, state.st_mtime_ns) for state in states])

    def load(
        self,
        model: Any,
        clip: Any,
        lora_name: str,
        concept_name: str,
        text: str,
        lora_strength: float,
        concept_strength: float,
    ) -> tuple:
        """Raises ValueError, with what to do, where a file or the model does not fit."""
        if not hasattr(model.model.diffusion_model, "joint_blocks"):
            raise ValueError("The model is not SD 3.5. PureCC concepts only work with SD 3.5.")
        if lora_name != NONE and lora_strength:
            path = folder_paths.get_full_path_or_raise("loras", lora_name)
            lora, weights = read_lora(path), model.model.state_dict()
            check_fits(lora, comfy.lora.model_lora_keys_unet(model.model, {}), weights, lora_name)
            model, _ = comfy.sd.load_lora_for_models(model, None, lora, lora_strength, 0.0)
        concepts = read_concepts(path_of_concept(concept_name), concept_strength) if concept_name != NONE else []
        for concept in concepts:
            _check_fits(concept, model.model.diffusion_model, concept_name)
        clip = with_concepts(clip, concepts)
        conditioning, absent = encode(clip, text)
        if text.strip() and concepts and all(concept.trigger in absent for concept in concepts):
            logging.warning(
                f'PureCC: the prompt does not contain the trigger "{concepts[0].trigger}" of {concept_name}.'
            )
        return model, clip, conditioning


class PureCCPrompt:
    """Encodes a prompt with the vectors of the loaded concepts that it names."""

    CATEGORY = CATEGORY
    DESCRIPTION = "Like CLIP Text Encode, for prompts with concepts of the connected PureCC Concept Loaders."
    FUNCTION = "encode"
    RETURN_TYPES = ("CONDITIONING",)

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {
            "required": {
                "clip": ("CLIP", {"tooltip": "From a PureCC Concept Loader."}),
                "text": ("STRING", {**TEXT, "tooltip": "The prompt. [V] stands for the trigger."}),
            }
        }

    def encode(self, clip: Any, text: str) -> tuple:
        """Raises ValueError where [V] has no one meaning."""
        return (encode(clip, text)[0],)


def _check_fits(concept: LoadedConcept, transformer: Any, source: str) -> None:
    blocks, width = len(transformer.joint_blocks), transformer.hidden_size
    if len(concept.vectors) not in (1, blocks) or concept.vectors.shape[-1] != width:
        raise ValueError(
            f"{source} is for a model with {len(concept.vectors)} blocks of width {concept.vectors.shape[-1]}, but "
            f"this one has {blocks} of width {width}. Load the model that it was trained on."
        )


NODE_CLASS_MAPPINGS = {"PureCCConceptLoader": PureCCConceptLoader, "PureCCPrompt": PureCCPrompt}
NODE_DISPLAY_NAME_MAPPINGS = {"PureCCConceptLoader": "PureCC Concept Loader", "PureCCPrompt": "PureCC Prompt"}
