"""The dataset config file: kohya's [general], [[datasets]] and [[datasets.subsets]], and our [[concepts]].

Each value is looked up in the subset, the dataset, [general] and the settings of the run, in this order.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from library.config.dataset import Concept, Dataset, DatasetConfig, Source, Subset
from library.config.fields import build, check, hints_of, name_of
from library.config.files import DATASET_TABLES, TomlFile
from library.config.settings import DataSettings, Settings
from library.errors import ConfigError, PureCCError, all_of, did_you_mean

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


class _Reader:
    """Reads one file; every mistake it finds goes to `problems`."""

    def __init__(self, file: TomlFile, defaults: DataSettings) -> None:
        self.file, self.problems = file, list[PureCCError]()
        fields = [field for field in dataclasses.fields(DataSettings) if field.name != "dataset_config"]
        self.fields = {IN_THE_FILE.get(name_of(field), name_of(field)): field for field in fields}
        self.fallback = {key: getattr(defaults, field.name) for key, field in self.fields.items()}

    def tables(self, key: str) -> list[dict]:
        """A list of tables, [[key]]."""
        value = self.file.tables.get(key, [])
        if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
            self._found(f"{self.file.path}: {key} must be a list of tables.", f"Write [[{key}]].")
            return []
        return value

    def concepts(self) -> list[Concept]:
        """All [[concepts]]."""
        concepts: list[Concept] = []
        known = {name_of(field) for field in dataclasses.fields(Concept)}
        for table in self.tables("concepts"):
            for key in set(table) - known:
                where = self.file.where(key, "concepts")
                self._found(f'{where}: there is no key "{key}" in [[concepts]].', did_you_mean(key, known))
            places = {key: self.file.where(key, "concepts") for key in table}
            concept = build(Concept, table, places, self.problems)
            if concept and concept.name in {other.name for other in concepts}:
                self._found(f'{self.file.path}: two concepts are named "{concept.name}".')
            elif concept and concept.trigger.lower() in {other.trigger.lower() for other in concepts}:
                self._found(f'{self.file.path}: two concepts have the trigger "{concept.trigger}".')
            elif concept:
                concepts.append(concept)
        if not concepts and not self.problems:
            self._found(f"{self.file.path} has no [[concepts]].", "Add one, with name, trigger and class_word.")
        return concepts

    def general(self) -> dict[str, Any]:
        """What holds for all datasets: [general] over the settings of the run."""
        table = self.file.tables.get("general", {})
        return {**self.fallback, **self._checked(table, set(self.fields), "general")}

    def dataset(self, table: dict, general: dict[str, Any], concepts: list[Concept]) -> Dataset | None:
        """One of [[datasets]]; None if it had a mistake."""
        own = {key: value for key, value in table.items() if key != "subsets"}
        values = {**general, **self._checked(own, set(self.fields), "datasets")}
        subsets = [self.subset(subset_table, values, concepts) for subset_table in table.get("subsets", [])]
        try:
            size = as_size(values["resolution"], self.file.where("resolution", "datasets"))
        except ConfigError as error:
            self.problems.append(error)
            return None
        rest = {key: values[key] for key in DATASET_LEVEL - {"resolution"}}
        return Dataset(subsets=[subset for subset in subsets if subset], resolution=size, **rest)

    def subset(self, table: dict, values: dict[str, Any], concepts: list[Concept]) -> Subset | None:
        """One of [[datasets.subsets]]; None if it had a mistake."""
        section, own = "datasets.subsets", {field.name for field in dataclasses.fields(Source)}
        inherited = set(self.fields) - DATASET_LEVEL
        given = self._checked(table, inherited | own, section)
        source = build(Source, given, {key: self.file.where(key, section) for key in given}, self.problems)
        if not source or not concepts:
            return None
        try:
            concept = _concept_name(source.concept, concepts, self.file.where("concept", section))
        except ConfigError as error:
            self.problems.append(error)
            return None
        held = {key: value for key, value in {**values, **given}.items() if key in inherited}
        return Subset(image_dir=source.image_dir, concept=concept, **held)

    def check_whole(self, datasets: list[Dataset], concepts: list[Concept]) -> None:
        """What can be said of the whole file only once its parts are right."""
        shown = {subset.concept for dataset in datasets for subset in dataset.subsets}
        unused = sorted({concept.name for concept in concepts} - shown)
        if not shown and not self.problems:
            self._found(f"{self.file.path} names no pictures.", "Add a [[datasets.subsets]] with its image_dir.")
        elif unused and not self.problems:
            self._found(
                f"{self.file.path}: no subset shows the concept {', '.join(unused)}.",
                'Give a [[datasets.subsets]] the line concept = "...".',
            )

    def _checked(self, table: dict, allowed: set[str], section: str) -> dict[str, Any]:
        """The entries whose keys are allowed and whose values have their type; the others are problems."""
        hints, of_subsets, good = hints_of(DataSettings), {field.name for field in dataclasses.fields(Source)}, {}
        for key, value in table.items():
            where = self.file.where(key, section)
            if key in LATER:
                what = f'{where}: "{key}" is a key of sd-scripts that this trainer does not read yet.'
                self._found(what, "Take it out.")
            elif key not in allowed:
                elsewhere = key in self.fields or key in of_subsets
                remedy = f'"{key}" may not stand here.' if elsewhere else did_you_mean(key, allowed)
                self._found(f'{where}: there is no key "{key}" in [{section}].', remedy)
            else:
                try:
                    if key in self.fields:
                        field = self.fields[key]
                        check(value, field, hints[field.name], where, called=key)
                    good[key] = value
                except ConfigError as error:
                    self.problems.append(error)
        return good

    def _found(self, what: str, remedy: str | None = None) -> None:
        self.problems.append(ConfigError(what, remedy))


def read_dataset_config(file: TomlFile, defaults: DataSettings) -> DatasetConfig:
    """The concepts and datasets of a file.

    Args:
        file: the dataset config, or the main file if they stand there.
        defaults: what holds where the file is silent.

    Raises:
        ConfigError: names every mistake in one go.
    """
    reader = _Reader(file, defaults)
    concepts, general = reader.concepts(), reader.general()
    found = [reader.dataset(table, general, concepts) for table in reader.tables("datasets")]
    datasets = [dataset for dataset in found if dataset]
    reader.check_whole(datasets, concepts)
    if reader.problems:
        raise all_of(reader.problems)
    return DatasetConfig(concepts=concepts, datasets=datasets)


def read_concepts_and_pictures(config: TomlFile | None, settings: Settings) -> DatasetConfig:
    """The concepts and datasets of a run: from its `dataset_config`, or from the main file if they stand there."""
    return read_dataset_config(find_dataset_file(config, settings.data), settings.data)


def as_size(resolution: int | list[int], where: str) -> tuple[int, int]:
    """(width, height) from one number or two.

    Raises:
        ConfigError: neither.
    """
    size = [resolution, resolution] if isinstance(resolution, int) else resolution
    if len(size) != 2 or min(size) < 8:
        raise ConfigError(f"{where}: resolution is {resolution}; it must be a number or [width, height], 8 or more.")
    return size[0], size[1]


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
