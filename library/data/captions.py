"""The captions of a folder's pictures, and the three texts of each."""

from __future__ import annotations

from pathlib import Path

from library.config.dataset import Concept, Subset
from library.errors import DataError
from library.prompts import PromptTriple, derive


def captions_of(image: Path, subset: Subset) -> tuple[list[str], str]:
    """A picture's captions, one of which each epoch draws, and where they come from.

    The caption file beside the picture counts first, then `caption_templates`, then `class_tokens`.

    Raises:
        DataError: there is none of the three, or the file is not UTF-8.
    """
    file = image.with_suffix(subset.caption_extension)
    if file.is_file():
        try:
            text = file.read_text(encoding="utf-8-sig").strip()
        except UnicodeDecodeError as error:
            raise DataError(f"The caption {file} is not a text in UTF-8.", "Save it as UTF-8.") from error
        captions, source = [text.splitlines()[0] if text else ""], str(file)
    elif subset.caption_templates:
        captions, source = subset.caption_templates, "caption_templates"
    elif subset.class_tokens is not None:
        captions, source = [subset.class_tokens], "class_tokens"
    else:
        raise DataError(
            f"The picture {image} has no caption: there is no {file.name} beside it.",
            "Write one that names everything but the concept, or set class_tokens or caption_templates.",
        )
    parts = [[subset.caption_prefix, caption, subset.caption_suffix] for caption in captions]
    return [" ".join(part for part in words if part) for words in parts], source


def prompts_of(image: Path, subset: Subset, concept: Concept) -> list[PromptTriple]:
    """The three texts of each of a picture's captions."""
    captions, source = captions_of(image, subset)
    return [derive(caption, concept, source) for caption in captions]
