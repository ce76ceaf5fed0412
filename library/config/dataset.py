"""The dataset config: kohya's [general], [[datasets]] and [[datasets.subsets]], and our [[concepts]].

Each value is looked up in the subset, the dataset, [general] and the settings of the run, in this order.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from library.config.fields import build, check, hints_of, name_of, setting
from library.config.files import DATASET_TABLES, TomlFile
from library.config.settings import DataSettings
from library.errors import ConfigError, PureCCError, all_of, did_you_mean

PLACEHOLDER = "[V]"
"""Stands for the concept's trigger in captions and prompts."""

IN_THE_FILE = {"train_batch_size": "batch_size", "dataset_repeats": "num_repeats"}
"""Settings that a dataset file calls by another name, as in sd-scripts."""

DATASET_LEVEL = {
    "resolution",
    "batch_size",
    "enable_bucket",
    "min_bucket_reso",
    "max_bucket_reso",
    "bucket_reso_steps",
    "bucket_no_upscale",
}
"""Keys that may stand in [general] and a dataset, but not in a subset."""

LATER = {
    "shuffle_caption", "keep_tokens", "keep_tokens_separator", "caption_separator", "secondary_separator",
    "enable_wildcard", "color_aug", "random_crop", "face_crop_aug_range", "token_warmup_min", "token_warmup_step",
    "caption_tag_dropout_rate", "caption_dropout_every_n_epochs", "custom_attributes", "cache_info", "is_reg",
    "alpha_mask", "metadata_file", "conditioning_data_dir", "validation_split", "validation_seed",
    "network_multiplier", "resize_interpolation",
}  # fmt: skip
"""Keys of sd-scripts that this trainer does not read yet."""


@dataclass(frozen=True, kw_only=True)
class Concept:
    """[[concepts]]: what is to be learned."""

    name: str = setting(help="Its name in files and logs.")
    trigger: str = setting(help="The text that calls it in prompts; [V] in captions stands for it.")
    class_word: str | None = setting(None, 'What it is one of, such as "dog". Unset for a style: "style".')
    kind: Literal["subject", "style"] = setting("subject", "A subject or a style.")
    target: str | None = setting(None, 'The concept alone, the target prompt. Unset: "[V] class_word".')

    def __post_init__(self) -> None:
        where = f'concept "{self.name}"'
        if self.class_word is None:
            if self.kind == "subject":
                raise ConfigError(
                    f"{where}: a subject needs class_word, what it is one of.", 'For instance class_word = "dog".'
                )
            object.__setattr__(self, "class_word", "style")
        if self.target is None:
            object.__setattr__(self, "target", f"{PLACEHOLDER} {self.class_word}")
        if not self.trigger.strip() or self.trigger == PLACEHOLDER:
            raise ConfigError(f"{where}: trigger is {self.trigger!r}.", 'Choose a rare word, for instance "ohwx".')
        if self.trigger.lower() == self.class_word.lower():
            raise ConfigError(
                f'{where}: trigger and class_word are both "{self.trigger}", so no prompt can leave the concept out.',
                'Choose a rare word as trigger, for instance "ohwx".',
            )
        if self.target.count(PLACEHOLDER) != 1:
            raise ConfigError(f'{where}: target is "{self.target}"; it must hold {PLACEHOLDER} once.')
        if not self.name.replace("_", "").replace("-", "").isalnum():
            raise ConfigError(f"{where}: name may hold letters, digits, - and _ only.")


@dataclass(frozen=True, kw_only=True)
class Subset:
    """[[datasets.subsets]]: one folder of pictures, with every value that holds for it."""

    image_dir: str = setting(help="Folder of the pictures.")
    concept: str | None = setting(None, "Name of the concept it shows. Unset: the only one.")
    num_repeats: int = setting(1, at_least=1)
    flip_aug: bool = setting(False)
    caption_extension: str = setting(".txt")
    class_tokens: str | None = setting(None)
    caption_templates: list[str] = setting([])
    caption_prefix: str | None = setting(None)
    caption_suffix: str | None = setting(None)
    caption_dropout_rate: float = setting(0.0, at_least=0, at_most=1)


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


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """What to learn and from which pictures."""

    concepts: list[Concept]
    datasets: list[Dataset]

    def concept_of(self, subset: Subset) -> Concept:
        """The concept that a subset shows."""
        return next(concept for concept in self.concepts if concept.name == subset.concept)


def _fields_by_file_name() -> dict[str, dataclasses.Field]:
    """The settings that a dataset file may hold, by the name they have there."""
    return {
        IN_THE_FILE.get(name_of(field), name_of(field)): field
        for field in dataclasses.fields(DataSettings)
        if field.name != "dataset_config"
    }


def _check_keys(table: dict, allowed: set[str], section: str, file: TomlFile, problems: list[PureCCError]) -> dict:
    """The entries of a table whose keys are allowed and whose values have their type; the others are problems."""
    fields, hints = _fields_by_file_name(), hints_of(DataSettings)
    subset_fields = {field.name: field for field in dataclasses.fields(Subset)}
    good = {}
    for key, value in table.items():
        where = file.where(key, section)
        if key in LATER:
            problems.append(
                ConfigError(
                    f'{where}: "{key}" is a key of sd-scripts that this trainer does not read yet.', "Take it out."
                )
            )
        elif key not in allowed:
            elsewhere = key in fields or key in subset_fields
            remedy = f'"{key}" may not stand here.' if elsewhere else did_you_mean(key, allowed)
            problems.append(ConfigError(f'{where}: there is no key "{key}" in [{section}].', remedy))
        else:
            try:
                if key in fields:
                    check(value, fields[key], hints[fields[key].name], where)
                good[key] = value
            except ConfigError as error:
                problems.append(error)
    return good


def as_size(resolution: int | list[int], where: str) -> tuple[int, int]:
    """[width, height] from one number or two."""
    size = [resolution, resolution] if isinstance(resolution, int) else resolution
    if len(size) != 2 or min(size) < 8:
        raise ConfigError(
            f"{where}: resolution is {resolution}; it must be a number or [width, height], 8 or more each."
        )
    return size[0], size[1]


def _tables(file: TomlFile, key: str, problems: list[PureCCError]) -> list[dict]:
    """A list of tables, [[key]], of a file."""
    value = file.tables.get(key, [])
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        problems.append(ConfigError(f"{file.path}: {key} must be a list of tables.", f"Write [[{key}]]."))
        return []
    return value


def _read_concepts(file: TomlFile, problems: list[PureCCError]) -> list[Concept]:
    concepts: list[Concept] = []
    known = {name_of(field) for field in dataclasses.fields(Concept)}
    for table in _tables(file, "concepts", problems):
        for key in set(table) - known:
            where = file.where(key, "concepts")
            problems.append(ConfigError(f'{where}: there is no key "{key}" in [[concepts]].', did_you_mean(key, known)))
        concept = build(Concept, table, {key: file.where(key, "concepts") for key in table}, problems)
        if concept and concept.name in {other.name for other in concepts}:
            problems.append(ConfigError(f'{file.path}: two concepts are named "{concept.name}".'))
        elif concept and concept.trigger.lower() in {other.trigger.lower() for other in concepts}:
            problems.append(ConfigError(f'{file.path}: two concepts have the trigger "{concept.trigger}".'))
        elif concept:
            concepts.append(concept)
    return concepts


def _concept_name(given: str | None, concepts: list[Concept], where: str) -> str:
    """Which concept a subset shows, named or the only one."""
    names = [concept.name for concept in concepts]
    if given is None and len(names) == 1:
        return names[0]
    if given is None:
        raise ConfigError(f"{where}: a subset must name its concept, since there are several.", f"One of {names}.")
    if given not in names:
        raise ConfigError(f'{where}: there is no concept "{given}".', did_you_mean(given, names))
    return given


def read_dataset_config(file: TomlFile, defaults: DataSettings) -> DatasetConfig:
    """The concepts and datasets of a file.

    Args:
        file: the dataset config, or the main file if they stand there.
        defaults: what holds where the file is silent.

    Raises:
        ConfigError: names every mistake in one go.
    """
    problems: list[PureCCError] = []
    fields = _fields_by_file_name()
    subset_only = {field.name for field in dataclasses.fields(Subset)}
    fallback = {key: getattr(defaults, field.name) for key, field in fields.items()}
    concepts = _read_concepts(file, problems)
    if not concepts and not problems:
        problems.append(
            ConfigError(f"{file.path} has no [[concepts]].", "Add one: [[concepts]] with name, trigger and class_word.")
        )
    general = _check_keys(file.tables.get("general", {}), set(fields), "general", file, problems)
    datasets: list[Dataset] = []
    for dataset_table in _tables(file, "datasets", problems):
        own = {key: value for key, value in dataset_table.items() if key != "subsets"}
        in_dataset = {**fallback, **general, **_check_keys(own, set(fields), "datasets", file, problems)}
        subsets: list[Subset] = []
        for subset_table in dataset_table.get("subsets", []):
            allowed = (set(fields) - DATASET_LEVEL) | subset_only
            given = _check_keys(subset_table, allowed, "datasets.subsets", file, problems)
            inherited = {
                key: in_dataset[key] for key in in_dataset if key in subset_only and in_dataset[key] is not None
            }
            where = {key: file.where(key, "datasets.subsets") for key in given}
            subset = build(Subset, {**inherited, **given}, where, problems)
            if subset and concepts:
                try:
                    name = _concept_name(subset.concept, concepts, file.where("concept", "datasets.subsets"))
                    subsets.append(dataclasses.replace(subset, concept=name))
                except ConfigError as error:
                    problems.append(error)
        try:
            size = as_size(in_dataset["resolution"], file.where("resolution", "datasets"))
        except ConfigError as error:
            problems.append(error)
            continue
        rest = {key: in_dataset[key] for key in DATASET_LEVEL - {"resolution"}}
        datasets.append(Dataset(subsets=subsets, resolution=size, **rest))
    if not any(dataset.subsets for dataset in datasets) and not problems:
        problems.append(
            ConfigError(
                f"{file.path} names no pictures.", "Add [[datasets]] with a [[datasets.subsets]] and its image_dir."
            )
        )
    unused = {c.name for c in concepts} - {s.concept for d in datasets for s in d.subsets}
    if unused and not problems:
        problems.append(
            ConfigError(
                f"{file.path}: no subset shows the concept {', '.join(sorted(unused))}.",
                'Give a [[datasets.subsets]] the line concept = "...".',
            )
        )
    if problems:
        raise all_of(problems)
    return DatasetConfig(concepts=concepts, datasets=datasets)


def find_dataset_file(config: TomlFile | None, defaults: DataSettings) -> TomlFile:
    """The file that holds concepts and datasets: `dataset_config` if it is set, else the main file.

    Raises:
        ConfigError: neither has any.
    """
    if defaults.dataset_config:
        file = TomlFile(defaults.dataset_config)
        known = set(DATASET_TABLES)
        for key in file.tables:
            if key not in known:
                raise ConfigError(
                    f'{file.where(key)}: a dataset config has no top-level "{key}".', did_you_mean(key, known)
                )
        return file
    if config and any(key in config.tables for key in DATASET_TABLES):
        return config
    raise ConfigError(
        "There is no dataset: dataset_config is not set.", "Set it to a file such as dataset_configs/subject.toml."
    )


def as_tables(config: DatasetConfig) -> dict[str, Any]:
    """The dataset config as TOML tables with every value in force; image folders as absolute paths."""

    def plain(thing: Any, skip: tuple[str, ...] = ()) -> dict[str, Any]:
        values = {field.name: getattr(thing, field.name) for field in dataclasses.fields(thing)}
        return {key: value for key, value in values.items() if value is not None and key not in skip}

    datasets = []
    for dataset in config.datasets:
        subsets = [
            {**plain(subset), "image_dir": str(Path(subset.image_dir).expanduser().resolve())}
            for subset in dataset.subsets
        ]
        datasets.append({**plain(dataset, ("subsets",)), "resolution": list(dataset.resolution), "subsets": subsets})
    return {"concepts": [plain(concept) for concept in config.concepts], "datasets": datasets}
