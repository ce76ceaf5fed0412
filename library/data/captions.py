"""The captions of a folder's pictures, and the three texts of each."""

from __future__ import annotations

from pathlib import Path

from library.config.dataset import Concept, Subset
from library.data.variants import makes_variants, variants_of
from library.errors import DataError
from library.files.text_file import read_text
from library.prompts import PromptTriple, derive, derive_without_concept, place

ENDINGS = (".txt", ".caption")
"""Endings of caption files that are tried where `caption_extension` is not set."""


def endings_of(subset: Subset) -> tuple[str, ...]:
    """The endings that caption files of a subset may have, first one first."""
    given = subset.caption_extension
    return ENDINGS if not given else (given if given.startswith(".") else f".{given}",)


def caption_file_of(image: Path, subset: Subset) -> Path | None:
    """The caption file next to a picture, if there is one."""
    files = [image.with_suffix(ending) for ending in endings_of(subset)]
    return next((file for file in files if file.is_file()), None)


def misnamed_captions_of(image: Path, subset: Subset) -> list[str]:
    """Files next to a picture without a caption that look like a misnamed one: dog.TXT, dog.png.txt, dog.txt.txt."""
    names = []
    for ending in dict.fromkeys([*endings_of(subset), *ENDINGS]):
        names += [f"{image.stem}{one}" for one in (ending, ending.upper(), ending.title(), 2 * ending)]
        names += [f"{image.name}{one}" for one in (ending, ending.upper())]
    return [name for name in dict.fromkeys(names) if image.with_name(name).is_file()]


def read_caption(file: Path) -> str:
    """A caption file; see `read_text`.

    Raises:
        DataError: another encoding, not text, far too long for a caption, or missing.
    """
    return read_text(file, "The caption", DataError)


def captions_of(image: Path, subset: Subset) -> tuple[list[str], str]:
    """A picture's captions, one of which each epoch draws, and where they come from.

    The caption file next to the picture counts first, then `caption_templates`, then `class_tokens`. If a file has
    several lines, the first counts; with `enable_wildcard`, all do.

    Raises:
        DataError: there is none of the three, or the file can't be read; see `read_caption`.
    """
    file = caption_file_of(image, subset)
    if file:
        lines = [line.strip() for line in read_caption(file).strip().splitlines()]
        lines = [line for line in lines if line] or [""]
        captions, source = lines if subset.enable_wildcard else lines[:1], str(file)
    elif subset.caption_templates:
        captions, source = subset.caption_templates, "caption_templates"
    elif subset.class_tokens is not None:
        captions, source = [subset.class_tokens], "class_tokens"
    else:
        wanted, others = image.with_suffix(endings_of(subset)[0]).name, misnamed_captions_of(image, subset)
        raise DataError(
            f"The image {image} has no caption: there is no {wanted} next to it.",
            f'Rename "{others[0]}" to "{wanted}".'
            if others
            else "Write a caption that describes everything but the concept, or set class_tokens or caption_templates.",
        )
    parts = [[subset.caption_prefix, caption, subset.caption_suffix] for caption in captions]
    return [_joined([part for part in words if part]) for words in parts], source


def _joined(parts: list[str]) -> str:
    """Parts with a space between them, but none before a comma."""
    return "".join(part if not index or part[0] in ",.;:" else f" {part}" for index, part in enumerate(parts))


def prompts_of(image: Path, subset: Subset, concept: Concept, seed: int = 0, count: int = 8) -> list[PromptTriple]:
    """The three texts of each of a picture's captions, one of which each epoch draws.

    Where tags are shuffled or dropped or wildcards drawn, these are `count` variants, which follow from the seed and
    the caption. [V] is placed before that, and the three texts are derived after it, so all three are of one variant.
    """
    captions, source = captions_of(image, subset)
    if makes_variants(subset, captions):
        keep = (lambda text: text) if subset.is_reg else (lambda text: place(text, concept, source))
        captions = variants_of(captions, subset, seed, count, keep)
    else:
        captions = [without_separators(caption, subset) for caption in captions]
    if subset.is_reg:
        return [derive_without_concept(caption, concept) for caption in captions]
    return [derive(caption, concept, source) for caption in captions]


def without_separators(caption: str, subset: Subset) -> str:
    """A caption whose separators for shuffling are not part of it."""
    if subset.keep_tokens_separator:
        parts = [part.strip().strip(subset.caption_separator) for part in caption.split(subset.keep_tokens_separator)]
        caption = f"{subset.caption_separator} ".join(part.strip() for part in parts if part.strip())
    if subset.secondary_separator:
        caption = caption.replace(subset.secondary_separator, f"{subset.caption_separator} ")
    return caption
