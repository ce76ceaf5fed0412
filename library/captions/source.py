"""The pictures of a concept, and the captions that are next to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from library.captions.facts import Facts
from library.captions.review import Captioned
from library.config.dataset import Concept, DatasetConfig, Subset
from library.data.captions import caption_file_of, captions_of, endings_of, without_separators
from library.data.folder import find_images, named
from library.errors import DataError
from library.models.interface import TokenCount
from library.models.opening import FAMILIES
from library.preflight.finding import Finding
from library.prompts import PromptTriple, derive


@dataclass(frozen=True)
class Source:
    """A picture and its caption file, which may not exist yet."""

    picture: Path
    file: Path
    subset: Subset

    @property
    def folder(self) -> Path:
        """The picture's path."""
        return self.picture.parent


def sources_of(concept: Concept, config: DatasetConfig) -> list[Source]:
    """The pictures of a concept, each once, without regularisation pictures.

    Raises:
        DataError: a folder can't be used.
    """
    subsets = [subset for dataset in config.datasets for subset in dataset.subsets]
    found: dict[Path, Source] = {}
    for subset in subsets:
        for picture in find_images(subset.image_dir) if subset.concept == concept.name and not subset.is_reg else ():
            file = caption_file_of(picture, subset) or picture.with_suffix(endings_of(subset)[0])
            found.setdefault(picture, Source(picture, file, subset))
    return list(found.values())


def captions_in(
    sources: Sequence[Source], concept: Concept, facts_of: Callable[[Source], Facts | None]
) -> tuple[list[Captioned], list[Finding]]:
    """The existing captions, and which are missing or can't be read."""
    texts: list[tuple[Source, str, PromptTriple]] = []
    problems: list[Finding] = []
    bare: list[str] = []
    for source in sources:
        if not source.file.is_file():
            bare.append(source.picture.name)
            continue
        try:
            for caption in captions_of(source.picture, source.subset)[0]:
                whole = without_separators(caption, source.subset)
                texts.append((source, caption, derive(whole, concept, source.file.name)))
        except DataError as error:
            problems.append(Finding(error.what, error.remedy or "Check the file."))
    if bare:
        problems.append(
            Finding(f"{len(bare)} images have no caption: {named(bare)}.", "Describe everything but the concept.")
        )
    counts = token_counts([triple.complete for *_, triple in texts])
    captions = [
        Captioned(source.picture, caption, triple, facts_of(source), count)
        for (source, caption, triple), count in zip(texts, counts, strict=True)
    ]
    return captions, problems


def token_counts(texts: Sequence[str]) -> list[list[TokenCount]]:
    """How many tokens the encoders of the first family need that counts them before a model is chosen."""
    count = next(one.token_counts for one in FAMILIES.values() if one.token_counts)
    return count(texts)
