"""Lists of prompts to measure on: those with the concept, and those that must stay as they were."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from library.config.dataset import PLACEHOLDER, Concept
from library.drawing.sample_prompts import read_prompt_lines
from library.errors import ConfigError, all_of, did_you_mean
from library.prompts import triggers_in, with_trigger, without_concept

LISTS = Path(__file__).with_name("lists")
"""The lists that come with the project."""
CLASS = "{class}"
"""Stands for the class word in a list."""
CHANGES_SUBJECT = "--changes_subject"
"""Marks a prompt that repaints or reshapes the subject itself."""
LIVE = ("dog", "cat")
"""Classes for which DreamBench has prompts of its own."""

Group = Literal["concept", "class", "unrelated"]


@dataclass(frozen=True)
class EvaluationPrompt:
    """A prompt to measure on.

    Attributes:
        id: its list and its number there; pictures are named by it.
        text: as the model with the LoRA gets it.
        base: the same without the concept, as the pretrained model gets it.
        changes_subject: whether it repaints or reshapes the subject, so that Seg-Cons leaves it out.
    """

    id: str
    text: str
    base: str
    group: Group
    changes_subject: bool = False


def default_list(concept: Concept) -> str:
    """The list that fits a concept: DreamBench's for animals or for objects, ours for a style."""
    if concept.kind == "style":
        return "style"
    return "dreambench-live" if concept.class_word.lower().split()[-1] in LIVE else "dreambench-object"


def read_lists(concept: Concept, with_concept: Sequence[str], preservation: Sequence[str]) -> list[EvaluationPrompt]:
    """The prompts of lists, each the name of one that comes with the project or a file, one prompt per line.

    Args:
        with_concept: every line of theirs holds [V], or the trigger itself.
        preservation: no line of theirs does. {class} stands for the class word; a style, which has none,
            leaves such lines out.

    Raises:
        ConfigError: names every line that is wrong, in one go.
    """
    problems: list[ConfigError] = []
    found: list[EvaluationPrompt] = []
    for name in with_concept:
        found += _read(name, concept, True, problems)
    for name in preservation:
        found += _read(name, concept, False, problems)
    ids = [prompt.id for prompt in found]
    for twice in sorted({one for one in ids if ids.count(one) > 1}):
        problems.append(ConfigError(f'Two prompts have the id "{twice}".', "Rename one of the two files."))
    if problems:
        raise all_of(problems)
    return found


def _read(name: str, concept: Concept, wants_concept: bool, problems: list[ConfigError]) -> list[EvaluationPrompt]:
    option = "--prompts" if wants_concept else "--preservation"
    path = _file_of(name, option)
    stem = re.sub(r"[^A-Za-z0-9]+", "-", path.stem).strip("-") or "list"
    prompts = []
    for number, line in enumerate(read_prompt_lines(str(path), option), 1):
        text = line.replace(CHANGES_SUBJECT, "").strip()
        group = group_of(text, concept)
        if (group == "concept") != wants_concept:
            remedy = (
                f"Every line needs {PLACEHOLDER} where the concept is; prompts without it belong in --preservation."
                if wants_concept
                else "Remove the concept, or move this line to --prompts."
            )
            fault = f"lacks {PLACEHOLDER}" if wants_concept else "names the concept"
            problems.append(ConfigError(f'{option}: {path.name}, prompt {number}: "{text}" {fault}.', remedy))
            continue
        if concept.kind == "style" and CLASS in text:
            continue
        complete, base = texts_of(text, concept)
        prompts.append(EvaluationPrompt(f"{stem}-{number:02}", complete, base, group, CHANGES_SUBJECT in line))
    return prompts


def group_of(text: str, concept: Concept) -> Group:
    """Whether a line is about the concept, about its class alone, or about neither."""
    if PLACEHOLDER in text or triggers_in(text, concept.trigger):
        return "concept"
    of_class = CLASS in text or (concept.kind == "subject" and triggers_in(text, concept.class_word))
    return "class" if of_class else "unrelated"


def texts_of(line: str, concept: Concept) -> tuple[str, str]:
    """The text with the concept, and the base text, of one line of a list."""
    if PLACEHOLDER in line:
        line = line.replace(CLASS, concept.class_word)
        return with_trigger(line, concept), without_concept(line, concept)
    base = without_concept(line.replace(CLASS, f"{PLACEHOLDER} {concept.class_word}"), concept)  # fixes "a owl"
    complete = line.replace(CLASS, concept.class_word) if triggers_in(line, concept.trigger) else base
    return complete, base


def _file_of(name: str, option: str) -> Path:
    path = LISTS / f"{name}.txt"
    if path.is_file():
        return path
    file = Path(name).expanduser()
    if not file.is_file():
        known = [one.stem for one in LISTS.glob("*.txt")]
        raise ConfigError(
            f'{option}: "{name}" is neither a file nor one of the included lists.', did_you_mean(name, known)
        )
    return file
