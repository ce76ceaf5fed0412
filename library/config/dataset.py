"""What to learn and from which pictures: concepts, datasets and subsets, with all values in force."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from library.config.fields import setting
from library.errors import ConfigError

PLACEHOLDER = "[V]"
"""Stands for the concept's trigger in captions and prompts."""
Kind = Literal["subject", "style"]
"""What a concept may be."""


@dataclass(frozen=True, kw_only=True)
class Concept:
    """[[concepts]]: what to learn."""

    name: str = setting(help="The concept's name in files and logs.")
    trigger: str = setting(help="The trigger word that you write in prompts. Captions write [V] for it.")
    class_word: str = setting("", 'What the subject is one of, such as "dog". Unset for a style: "style".')
    kind: Kind = setting("subject", "A subject or a style.")
    target: str = setting("", 'Prompt for the concept alone. Unset: "[V] class_word".')
    placeholder: str | None = setting(
        None, 'What your captions write instead of [V], such as "[trigger]" if they were made for ai-toolkit.'
    )

    def __post_init__(self) -> None:
        where = f'concept "{self.name}"'
        if not self.class_word:
            if self.kind == "subject":
                raise ConfigError(
                    f"{where}: class_word is missing; a subject needs one.", 'For example class_word = "dog".'
                )
            object.__setattr__(self, "class_word", "style")
        if not self.target:
            object.__setattr__(self, "target", f"{PLACEHOLDER} {self.class_word}")
        if not self.trigger.strip() or self.trigger == PLACEHOLDER:
            raise ConfigError(f"{where}: trigger is {self.trigger!r}.", 'Choose a rare word, for example "ohwx".')
        if self.trigger.lower() == self.class_word.lower():
            raise ConfigError(
                f'{where}: trigger and class_word are both "{self.trigger}", so prompts can\'t leave the concept out.',
                'Choose a rare word as trigger, for example "ohwx".',
            )
        if self.target.count(PLACEHOLDER) != 1:
            raise ConfigError(f'{where}: target is "{self.target}"; it must contain {PLACEHOLDER} once.')
        if not self.name.replace("_", "").replace("-", "").isalnum():
            raise ConfigError(f"{where}: name can contain only letters, digits, - and _.")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Values that only a subset can have."""

    image_dir: str = setting(help="Folder of the images.", holds="path")
    concept: str | None = setting(None, "Name of the concept that the images show. Unset: the only concept.")
    is_reg: bool = setting(
        False, "These are regularisation images: they show the class, not the concept. Their captions get no [V]."
    )
    diff_output_preservation: bool = setting(
        False, "Use regularisation images only to hold the student to the base model, not to learn from them."
    )
    conditioning_data_dir: str | None = setting(
        None, "Folder of masks named like the images, for masked_loss. Dark parts are ignored.", holds="path"
    )


@dataclass(frozen=True, kw_only=True)
class Subset(Source):
    """[[datasets.subsets]]: one folder of pictures, with all of its values; see `DataSettings`."""

    num_repeats: int
    flip_aug: bool
    random_crop: bool
    resize_interpolation: str | None
    alpha_mask: bool
    caption_extension: str | None
    class_tokens: str | None
    caption_templates: list[str]
    caption_prefix: str | None
    caption_suffix: str | None
    caption_separator: str
    shuffle_caption: bool
    keep_tokens: int
    keep_tokens_separator: str
    secondary_separator: str | None
    enable_wildcard: bool
    caption_dropout_rate: float
    caption_dropout_every_n_epochs: int
    caption_tag_dropout_rate: float


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """[[datasets]]: subsets that share size and batch."""

    subsets: list[Subset]
    resolution: tuple[int, int]
    batch_size: int
    enable_bucket: bool
    min_bucket_reso: int
    max_bucket_reso: int
    bucket_reso_steps: int
    bucket_no_upscale: bool
    validation_split: float
    validation_seed: int | None


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """What to learn and from which pictures."""

    concepts: list[Concept]
    datasets: list[Dataset]

    def concept_of(self, subset: Subset) -> Concept:
        """The concept that a subset shows."""
        return next(concept for concept in self.concepts if concept.name == subset.concept)


def _folders(subset: Subset) -> list[tuple[str, str]]:
    both = (("image_dir", subset.image_dir), ("conditioning_data_dir", subset.conditioning_data_dir))
    return [(name, path) for name, path in both if path]


def as_tables(config: DatasetConfig) -> dict[str, Any]:
    """The dataset config as TOML tables with all values in force and absolute paths of image folders."""

    def plain(thing: Any, skip: tuple[str, ...] = ()) -> dict[str, Any]:
        values = {field.name: getattr(thing, field.name) for field in dataclasses.fields(thing)}
        return {key: value for key, value in values.items() if value is not None and key not in skip}

    datasets = []
    for dataset in config.datasets:
        subsets = [
            {**plain(subset), **{name: str(Path(path).expanduser().resolve()) for name, path in _folders(subset)}}
            for subset in dataset.subsets
        ]
        datasets.append({**plain(dataset, ("subsets",)), "resolution": list(dataset.resolution), "subsets": subsets})
    return {"concepts": [plain(concept) for concept in config.concepts], "datasets": datasets}
