"""Puts LoRA files on the model, one after the other, in place of a run's student."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from library.adapters.files import (
    ConceptFile,
    SavedConcept,
    layout_endings,
    load_changes,
    read_changes,
)
from library.adapters.network import Change, check_fit
from library.config.dataset import Concept
from library.config.settings import Settings
from library.drawing.generation import as_concept, check_layout
from library.dual_branch_scheduler import Branch
from library.errors import ConfigError, ModelError
from library.models.family import FlowModel
from library.parts.parts import STUDENT_ADAPTER, Opened
from library.parts.saved_vectors import embeddings_of
from library.terminal import say

NO_LORA = ("_concept", "_extractor", "_transformer", "_embedding")
"""Ends of names of our files that are not LoRAs."""
TRIGGER_KEYS = ("modelspec.trigger_phrase", "ss_trigger_words", "trigger_words", "instance_prompt")
"""Metadata keys in which trainers store a LoRA's trigger."""


def loras_in(words: Sequence[str]) -> list[Path]:
    """The LoRA files that are meant: files, or for a folder all LoRAs of a run in it, each once, in order of steps.

    Raises:
        ConfigError: nothing there.
    """
    found: list[Path] = []
    for word in words:
        path = Path(word).expanduser()
        if path.is_dir():
            skipped = (*NO_LORA, *(ending for ending in layout_endings() if ending))
            inside = [one for one in sorted(path.glob("*.safetensors")) if not one.stem.endswith(skipped)]
            if not inside:
                raise ConfigError(
                    f"{path} contains no LoRA.", "Give a .safetensors file, or a folder that contains some."
                )
            found += sorted(inside, key=lambda one: ("-step" not in one.stem, one.stem))
        else:
            found.append(path)
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class FileOnModel:
    """A LoRA file's changes to a model.

    Args:
        changes: of the transformer, by diffusers name.
        left_out: what is not used of the file, in sentences.
    """

    changes: dict[str, Change]
    left_out: tuple[str, ...] = ()


def read_layers(path: Path, model: FlowModel) -> FileOnModel:
    """A LoRA file, checked on the meta device without reading weights; it says what is left out.

    Raises:
        ModelError: not a file for this model, or of a kind that can't be read.
    """
    changes, left_out = load_changes(path, model.depth)
    check_fit(model.counted().transformer, changes, str(path))
    for line in left_out:
        say(line)
    return FileOnModel(changes, tuple(left_out))


def concept_of_lora(lora: Path, concept_file: ConceptFile | None, settings: Settings) -> Concept:
    """What a LoRA was trained for: as the command line says, else as its concept file or its metadata says.

    Raises:
        ConfigError: the trigger, or the class word, is missing.
    """
    data = settings.data
    saved = concept_file.load()[1] if concept_file else []
    if len(saved) == 1 and not data.trigger and not data.class_word:
        return as_concept(saved[0])
    metadata = read_changes(lora).metadata
    known = next((metadata[key].strip() for key in TRIGGER_KEYS if metadata.get(key, "").strip()), None)
    trigger, class_word = data.trigger or known, data.class_word
    if not trigger or ("," in trigger and not data.trigger):
        several = f' names several triggers, "{trigger}"' if trigger else " does not contain its trigger"
        raise ConfigError(f"{lora}{several}.", "Give it, for example --trigger ohwx --class_word dog.")
    if not class_word and data.kind != "style":
        raise ConfigError(
            f'{lora}: the class word of the concept "{trigger}" is unknown.',
            "Give it, for example --class_word dog. For a style, use --kind style.",
        )
    kind = data.kind or ("style" if class_word == "style" else "subject")
    return Concept(name="concept", trigger=trigger, class_word=class_word or "", kind=kind)


class Students:
    """Puts LoRAs on the model.

    Args:
        opened: without the transformer.
        layers: of every file that will be put on, as `read_layers` gives them.

    Attributes:
        parts: with the transformer.
    """

    def __init__(self, opened: Opened, layers: dict[Path, FileOnModel]) -> None:
        self._layers = layers
        self.parts = opened.attach(sorted(set().union(*(file.changes for file in layers.values()))))

    def branch(self, lora: Path, concept_file: ConceptFile | None, strength: float = 1.0) -> Branch:
        """The student of one file; the previous one is removed.

        Raises:
            ModelError: a file does not fit the model.
        """
        self.parts.network.load(STUDENT_ADAPTER, self._layers[lora].changes, str(lora))
        self.parts.network.set_strength(STUDENT_ADAPTER, strength)
        if concept_file is None:
            return Branch({}, {}, default=STUDENT_ADAPTER)
        vectors, saved = concept_file.load()
        named = self._named(vectors, saved, concept_file.path)
        return Branch({}, embeddings_of(self.parts, named, str(concept_file.path)), default=STUDENT_ADAPTER)

    def _named(self, vectors: dict[str, Tensor], saved: list[SavedConcept], source: Path) -> dict[str, Tensor]:
        """The vectors by the name that the concept of the same trigger has here."""
        names = {concept.trigger.lower(): concept.name for concept in self.parts.concepts}
        here = {}
        if saved and not names.keys() & {one.trigger.lower() for one in saved}:
            raise ModelError(
                f'{source} contains vectors for the trigger "{saved[0].trigger}", not for "{next(iter(names))}".',
                "Use the trigger it was trained with, or --concept none.",
            )
        for one in saved:
            name = names.get(one.trigger.lower())
            if name is not None and one.name in vectors:
                check_layout(self.parts, name, one, source)
                here[name] = vectors[one.name]
        return here
