"""The prompts of an audit, and which of them may change how."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from library.config.dataset import PLACEHOLDER, Concept
from library.drawing.sample_prompts import read_prompt_lines
from library.errors import ConfigError
from library.evaluation.drift import Kind, Probe
from library.evaluation.prompts import CLASS, group_of, texts_of
from library.prompts import place, triggers_in, whole_word, with_trigger

DEFAULTS = Path(__file__).with_name("audit_prompts")
"""A list for each kind of concept."""


def read_probes(path: str | None, concept: Concept, seeds: Sequence[int]) -> list[Probe]:
    """The prompts of a file, each once for every seed.

    Args:
        path: one prompt per line; {class} stands for the class word. None: those that come with the project.

    Raises:
        ConfigError: no such file, no line with [V] in it, or none without.
    """
    option, file = "--audit_prompts", path or str(DEFAULTS / f"{concept.kind}.txt")
    probes = probes_of(read_prompt_lines(file, option), concept, seeds, f"{option}: {file}")
    kinds = {probe.kind for probe in probes}
    if "concept" not in kinds:
        raise ConfigError(
            f"{option}: no prompt in {file} contains {PLACEHOLDER} or the trigger.",
            f'Add lines such as "a {PLACEHOLDER} {concept.class_word} in the snow".',
        )
    if not kinds & {"class", "unrelated"}:
        raise ConfigError(
            f"{option}: every prompt in {file} contains the concept, so drift can't be measured.",
            f'Add lines such as "a {concept.class_word} in the snow" and "a bowl of fruit on a table".',
        )
    return probes


def probes_of(lines: Iterable[str], concept: Concept, seeds: Sequence[int], where: str) -> list[Probe]:
    """What each line, asked for from each seed, is compared by.

    Args:
        where: the lines come from, for error messages.
    """
    found = []
    for line in dict.fromkeys(lines):
        if concept.kind == "style" and CLASS in line:
            continue
        text, base = texts_of(line, concept)
        kind: Kind = group_of(line, concept)
        others = len(triggers_in(base, concept.class_word)) if concept.kind == "subject" else 0
        kind = "bystander" if kind == "concept" and others > 1 else kind
        takes_concept = kind == "class" or (concept.kind == "style" and base)
        placed = with_trigger(place(base, concept, where), concept) if takes_concept else None
        complete = text if kind in ("concept", "bystander") else placed
        classless = without_class(base, concept) if kind == "concept" and others == 1 else None
        found += [Probe(kind, base, complete, classless, seed) for seed in seeds]
    return found


def without_class(text: str, concept: Concept) -> str:
    """A text with its class word taken out."""
    pieces = whole_word(concept.class_word).split(text)
    return "".join([*(piece.rstrip() for piece in pieces[:-1]), pieces[-1]]).strip()
