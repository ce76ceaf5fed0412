"""Fills in what an sd-scripts data set leaves out: concepts, from class tokens, and subsets, from folder names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from library.config.data_settings import DataSettings
from library.config.dataset import PLACEHOLDER, Concept
from library.errors import ConfigError, nearest
from library.files.picture_files import is_hidden, pictures_in

STYLE: Final = "style"
NAMED_FOLDER = re.compile(r"(\d{1,9})_(.+)")
"""Folders such as "10_sks dog": repeats and class tokens."""
SUBSET_KEYS_PASSED_OVER = {
    "color_aug": "its latents could not be cached",
    "face_crop_aug_range": "its latents could not be cached",
    "token_warmup_min": "captions stay the same throughout training",
    "token_warmup_step": "captions stay the same throughout training",
    "network_multiplier": "the LoRA always trains at full strength",
}
"""Keys of a dataset file that are ignored with a warning, and why."""
SUBSET_KEYS_NEEDLESS = frozenset({"cache_info"})
SUBSET_KEYS_REFUSED = {
    "metadata_file": "This trainer reads images and captions from folders: use image_dir, with a caption file next to "
    "each image.",
}
"""Keys of a dataset file that are not supported, and what to do instead."""


def concept_of_tokens(tokens: str | None, given: DataSettings, phrase: str | None = None) -> Concept | None:
    """The concept that class tokens such as "sks dog" stand for: the trigger, then the class word.

    Args:
        tokens: the subset's `class_tokens`, if it has any.
        given: trigger, class word and kind that the user set for the run.
        phrase: what the files will say about the trigger. It counts unless it only rephrases the class tokens.

    Returns:
        None if nothing says what the trigger is.
    """
    words = (tokens or "").replace(PLACEHOLDER, "").split()
    trigger = given.trigger or _trigger_of(words, given, (phrase or "").partition(",")[0].split())
    rest = [word for word in words if word.lower() not in (trigger or "").lower().split()]
    class_word = given.class_word or " ".join(rest) or (STYLE if given.kind == STYLE else None)
    if not trigger or not class_word:
        return None
    kind = given.kind or (STYLE if class_word.lower() == STYLE else "subject")
    name = re.sub(r"[^\w-]+", "_", trigger).strip("_") or "concept"
    return Concept(name=name, trigger=trigger, class_word=class_word, kind=kind)


def _trigger_of(words: list[str], given: DataSettings, said: list[str]) -> str:
    """The trigger in class tokens, otherwise in what the files will say about it; "" if neither has one.

    It is everything before the class word that the user set, otherwise the first of several words. A single word is the
    trigger only if the user set a class word or a style; otherwise it is the class word.
    """
    class_words = (given.class_word or "").lower().split()
    before = words[: -len(class_words)] if class_words else []
    if before and [word.lower() for word in words[-len(class_words) :]] == class_words:
        return " ".join(before)
    if len(words) > 1 and (not said or words[0] in said):
        return words[0]
    phrase = " ".join(word for word in said if word not in words)
    alone = len(words) == 1 and (given.class_word or given.kind == STYLE) and words[0].lower() != STYLE
    return phrase or (words[0] if alone and [words[0].lower()] != class_words else "")


def what_is_missing(tokens: Iterable[str | None], given: DataSettings) -> str:
    """What to add if `unsaid_concepts` finds none, without what the user has given already."""
    if given.trigger:
        return "Add --class_word with what the subject is, such as dog, or --kind style for a style."
    if given.class_word or given.kind == STYLE:
        return "Add --trigger with a rare word, such as ohwx."
    alone = next((one for one in tokens if one and len(one.split()) == 1 and one != PLACEHOLDER), None)
    if alone:
        return (
            f'If "{alone}" is the trigger, add --class_word with what the subject is, such as dog, or --kind style. '
            "If it is the class word, add --trigger ohwx."
        )
    return 'Add --trigger ohwx --class_word dog, or class_tokens = "ohwx dog", or [[concepts]].'


def understood(concept: Concept, given: DataSettings) -> str:
    """What was read from class tokens, and how to change it, as text."""
    said = (
        f'The concept "{concept.name}": a {concept.kind}, trigger "{concept.trigger}", class word '
        f'"{concept.class_word}". '
    )
    *more, last = concept.class_word.split()
    if more and not given.class_word and not given.trigger:
        said += f'If the trigger is "{" ".join([concept.trigger, *more])}", add --class_word {last}. '
    return f"{said}To change this, set trigger, class_word and kind, or add [[concepts]]."


def unsaid_concepts(
    tokens: Iterable[str | None], given: DataSettings, phrase: str | None = None
) -> dict[str | None, Concept]:
    """The concepts of all class tokens, see `concept_of_tokens`; the same trigger means the same concept."""
    found: dict[str | None, Concept] = {}
    by_trigger: dict[str, Concept] = {}
    for one in tokens:
        concept = concept_of_tokens(one, given, phrase)
        if concept:
            found[one] = by_trigger.setdefault(concept.trigger.lower(), concept)
    if found and len(by_trigger) == 1:
        (only,) = by_trigger.values()
        found.update(dict.fromkeys([one for one in tokens if one not in found], only))
    return found


def folders_as_tables(settings: DataSettings, notices: list[str]) -> dict[str, Any]:
    """A dataset from `train_data_dir` and `reg_data_dir`: folders such as "10_sks dog" become subsets.

    Raises:
        ConfigError: a folder is missing, or has no folder of that form.
    """
    subsets = []
    for name, is_reg in (("train_data_dir", False), ("reg_data_dir", True)):
        folder = getattr(settings, name)
        if folder:
            subsets += [{**subset, "is_reg": is_reg} for subset in _subsets_in(Path(folder), name, notices)]
    return {"datasets": [{"subsets": subsets}]}


def _subsets_in(folder: Path, name: str, notices: list[str]) -> list[dict[str, Any]]:
    if not os.path.isdir(folder):
        above = folder.parent
        siblings = [str(other) for other in above.iterdir() if other.is_dir()] if os.path.isdir(above) else []
        guess = nearest(str(folder), siblings)
        raise ConfigError(
            f"{name}: the folder {folder.absolute()} doesn't exist.",
            f'Did you mean "{guess}"?' if guess else "Relative paths start at the folder where you run the command.",
        )
    subsets = []
    for child in sorted(path for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name)):
        match = NAMED_FOLDER.fullmatch(child.name)
        if match:
            subsets.append({"image_dir": str(child), "num_repeats": int(match[1]), "class_tokens": match[2].strip()})
        else:
            notices.append(f'WARNING: {name}: the folder "{child.name}" is ignored: its name is not like "10_sks dog".')
    loose = pictures_in(folder)
    if subsets and loose:
        notices.append(
            f"WARNING: {name}: {len(loose)} images outside these folders are ignored, such as {loose[0].name}."
        )
    if not subsets:
        inside = f'Put the images into a folder inside it, such as "{folder / "10_sks dog"}", or use a dataset_config.'
        raise ConfigError(
            f"{name}: {folder} contains no folder with repeats and class tokens in its name.",
            f'Set {name} = "{folder.parent}".' if NAMED_FOLDER.fullmatch(folder.name) else inside,
        )
    return subsets
