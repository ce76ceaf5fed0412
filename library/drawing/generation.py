"""Pictures with and without a LoRA and its concept embeddings, same seeds, on one sheet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from library.adapters.files import ConceptFile, SavedConcept, load_changes
from library.adapters.network import check_fit
from library.config.dataset import Concept
from library.config.settings import Settings
from library.drawing.sample_prompts import parse
from library.drawing.sheet_maker import SheetMaker
from library.dual_branch_scheduler import Branch
from library.errors import ModelError
from library.files.cache_limit import CacheUse
from library.parts.parts import STUDENT_ADAPTER, Opened, build_parts
from library.parts.saved_vectors import embeddings_of
from library.prompts import NULL_PROMPT
from library.report.progress import bar_over
from library.terminal import say


def as_concept(saved: SavedConcept) -> Concept:
    """The concept that a file's vectors were learned for."""
    return Concept(
        name=saved.name, trigger=saved.trigger, class_word=saved.class_word, kind=saved.kind, target=saved.target
    )


def generate(
    settings: Settings,
    lora: Path,
    concept_file: ConceptFile | None,
    concepts: list[Concept],
    prompts: Sequence[str],
    strength: float,
    size: tuple[int, int],
    output: Path,
) -> None:
    """Writes a sheet: a row for each prompt, for each seed the pretrained model and the LoRA.

    Args:
        lora: in any layout; its part for the text encoders is left out, and the run says so.
        concept_file: its concept embeddings; None: only the trigger word.
        concepts: what [V] stands for where there is no concept file.
        strength: of the LoRA, 1 as trained. The embeddings always act whole.
        size: width and height of pictures whose prompt names no other.

    Raises:
        ModelError: a file does not fit the model.
    """
    vectors, saved = concept_file.load() if concept_file else ({}, [])
    source = concept_file.path if concept_file else lora
    positions = {concept.name: concept for concept in saved if concept.name in vectors}
    concepts = [as_concept(concept) for concept in saved] or concepts
    opened = build_parts(settings, concepts)
    samples = [parse(prompt, concepts, "--prompt") for prompt in prompts]
    changes, left_out = load_changes(lora, opened.model.depth)
    # On the meta device, before spending minutes on texts and the real model.
    check_fit(opened.model.counted().transformer, changes, str(lora))
    for line in left_out:
        say(line)
    for sentence in dict.fromkeys(sentence for sample in samples for sentence in sample.passed_over):
        say(f"WARNING: {sentence}")
    for name, concept in positions.items():
        check_layout(opened, name, concept, source)
    title = f"{lora.name} at strength {strength:g}"
    with CacheUse(settings.saving.cache_dir, settings.saving.max_cache_bytes):
        texts = [text for sample in samples for text in (sample.text, sample.base, sample.negative)]
        opened.texts.prepare([NULL_PROMPT, *texts], bar_over("text"))
        parts = opened.attach(changes)
        for notice in parts.model.notices:
            say(notice)
        parts.network.load(STUDENT_ADAPTER, changes, str(lora))
        parts.network.set_strength(STUDENT_ADAPTER, strength)
        branch = Branch({}, embeddings_of(parts, vectors, str(source)), default=STUDENT_ADAPTER)
        SheetMaker(parts, samples, size).make(output, title, {"with the LoRA": branch}, bar_over("sheet"))


def check_layout(parts: Opened, name: str, saved: SavedConcept, source: Path) -> None:
    """Checks that this model splits the trigger into as many tokens as in training.

    Raises:
        ModelError: it does not.
    """
    streams, here = parts.model.streams, parts.layouts[name].counts
    there = [saved.tokens.get(stream.key, 0) for stream in streams]
    # Of streams behind the first, the file may have no vectors.
    if here[0] != there[0] or any(other and other != own for own, other in zip(here[1:], there[1:], strict=True)):
        had = " and ".join(f"{count} {stream.name}" for stream, count in zip(streams, there, strict=True))
        raise ModelError(
            f'{source}: the trigger "{saved.trigger}" had {had} tokens in training; this model\'s tokenizers make it '
            f"{' and '.join(map(str, here))}.",
            "It was trained on another model.",
        )
