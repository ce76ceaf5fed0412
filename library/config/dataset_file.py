"""The dataset config file: kohya's [general], [[datasets]] and [[datasets.subsets]], and our [[concepts]].

Each value is looked up in the subset, the dataset, [general] and the settings of the run, in this order.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

from library.config.data_settings import RUN_ONLY, DataSettings
from library.config.dataset import Concept, Dataset, DatasetConfig, Source, Subset
from library.config.fields import build, check, check_sound, default_of, hints_of, name_of
from library.config.files import DATASET_TABLES, TomlFile
from library.config.groups import paths
from library.config.kohya.data import (
    SUBSET_KEYS_NEEDLESS,
    SUBSET_KEYS_PASSED_OVER,
    SUBSET_KEYS_REFUSED,
    folders_as_tables,
    understood,
    unsaid_concepts,
    what_is_missing,
)
from library.config.kohya.training import VALUES, expanded
from library.config.places import Place
from library.config.settings import Settings
from library.config.synonyms import meant
from library.errors import ConfigError, PureCCError, all_of, did_you_mean, naming

IN_THE_FILE = {"train_batch_size": "batch_size", "dataset_repeats": "num_repeats"}
"""Settings with another name in a dataset file, as in sd-scripts."""

DATASET_LEVEL = {
    "resolution",
    "batch_size",
    "enable_bucket",
    "min_bucket_reso",
    "max_bucket_reso",
    "bucket_reso_steps",
    "bucket_no_upscale",
    "validation_split",
    "validation_seed",
}
"""Keys that can be in [general] and a dataset, but not in a subset."""


class _Table(NamedTuple):
    """A table of the file, and the way to it."""

    place: Place
    values: dict[str, Any]


class _Reader:
    """Reads one file; every mistake it finds goes to `problems`."""

    def __init__(
        self, file: TomlFile, concepts_file: TomlFile, defaults: DataSettings, phrase: str | None, notices: list[str]
    ) -> None:
        self.phrase = phrase
        self.concepts_file = concepts_file
        self.file = file
        self.defaults = defaults
        self.notices = notices
        self.problems = list[PureCCError]()
        self.unsaid: dict[str | None, Concept] = {}
        fields = [field for field in dataclasses.fields(DataSettings) if field.name not in RUN_ONLY]
        self.fields = {IN_THE_FILE.get(name_of(field), name_of(field)): field for field in fields}
        self.fallback = {key: getattr(defaults, field.name) for key, field in self.fields.items()}

    def check_top_level(self) -> None:
        """Checks that a file which is only a dataset config has nothing else."""
        for key in sorted(set(self.file.tables) - set(DATASET_TABLES)):
            remedy = did_you_mean(key, DATASET_TABLES)
            self._found(f'{self.file.where((key,))}: a dataset config has no top-level "{key}".', remedy)

    def tables(self, file: TomlFile, key: str) -> list[_Table]:
        """A list of tables, [[key]]."""
        return self._listed(file, file.tables.get(key, []), (key,), key)

    def _listed(self, file: TomlFile, value: Any, place: Place, called: str) -> list[_Table]:
        """The tables of a list; every other entry is a problem."""
        if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
            what = f"{file.where(place)}: {called} must be a list of tables."
            if what not in {problem.what for problem in self.problems}:
                self._found(what, f"Write [[{called}]].")
            return []
        return [_Table((*place, number), entry) for number, entry in enumerate(value)]

    def subset_tables(self, dataset: _Table) -> list[_Table]:
        """The tables of a dataset's subsets."""
        subsets = dataset.values.get("subsets", [])
        return self._listed(self.file, subsets, (*dataset.place, "subsets"), "datasets.subsets")

    def concepts(self) -> list[Concept]:
        """All [[concepts]]."""
        concepts: list[Concept] = []
        known, file = {name_of(field) for field in dataclasses.fields(Concept)}, self.concepts_file
        for place, given in self.tables(file, "concepts"):
            table = {key: value for key, value in given.items() if value != ""}
            places = {key: file.where((*place, key), "concepts") for key in table}
            for key in sorted(set(table) - known):
                self._found(f'{places[key]}: "{key}" is not a key of [[concepts]].', meant(key, known))
            concept = build(Concept, table, places, self.problems, file.where(place, "concepts"))
            if concept and concept.name in {other.name for other in concepts}:
                self._found(f'{file.where((*place, "name"))}: two concepts are named "{concept.name}".')
            elif concept and concept.trigger.lower() in {other.trigger.lower() for other in concepts}:
                self._found(f'{file.where((*place, "trigger"))}: two concepts have the trigger "{concept.trigger}".')
            elif concept:
                concepts.append(concept)
        return concepts or (self._unsaid_concepts() if "concepts" not in file.tables else [])

    def _unsaid_concepts(self) -> list[Concept]:
        """The concepts of an sd-scripts file, which names them at most in its class tokens."""
        general, tokens = self.general_table(), list[str | None]()
        for dataset in self.tables(self.file, "datasets"):
            for subset in self.subset_tables(dataset):
                if not subset.values.get("is_reg"):
                    own = {"class_tokens": self.defaults.class_tokens}
                    levels = (subset.values, dataset.values, general, own)
                    tokens.append(next((level["class_tokens"] for level in levels if "class_tokens" in level), None))
        if not tokens or not all(isinstance(one, str | None) for one in tokens):
            return []
        try:
            self.unsaid = unsaid_concepts(tokens, self.defaults, self.phrase)
        except ConfigError as error:
            self.problems.append(error)
            return []
        concepts = list({concept.name: concept for concept in self.unsaid.values()}.values())
        if not concepts:
            self._found(
                f"{self.file.path} has no [[concepts]], and its class tokens do not name a concept.",
                what_is_missing(tokens, self.defaults),
            )
        self.notices += [understood(concept, self.defaults) for concept in concepts]
        return concepts

    def general_table(self) -> dict[str, Any]:
        """[general] as written in the file."""
        table = self.file.tables.get("general", {})
        return table if isinstance(table, dict) else {}

    def general(self) -> dict[str, Any]:
        """The values for all datasets: [general] over the settings of the run."""
        table = self.file.tables.get("general", {})
        if not isinstance(table, dict):
            self._found(f"{self.file.where(('general',))}: general must be a table.", "Write [general].")
        given = self._checked(_Table(("general",), self.general_table()), set(self.fields), "general")
        return {**self.fallback, **given}

    def dataset(self, table: _Table, general: dict[str, Any], concepts: list[Concept]) -> Dataset | None:
        """One of [[datasets]]; None if it had a mistake."""
        own = {key: value for key, value in table.values.items() if key != "subsets"}
        values = {**general, **self._checked(_Table(table.place, own), set(self.fields), "datasets")}
        subsets = self._without_repeated([self.subset(one, values, concepts) for one in self.subset_tables(table)])
        try:
            size = as_size(values["resolution"], self._where_held(table, "resolution"))
        except ConfigError as error:
            self.problems.append(error)
            return None
        rest = {key: values[key] for key in DATASET_LEVEL - {"resolution"}}
        least, most = rest["min_bucket_reso"], rest["max_bucket_reso"]
        if rest["enable_bucket"] and least > most:
            where = self._where_held(table, "min_bucket_reso")
            self._found(
                f"{where}: min_bucket_reso is {least}; it must not be above max_bucket_reso, {most}.",
                "Swap the values.",
            )
        if subsets and all(subset.is_reg for subset in subsets):
            self.notices.append(
                f"WARNING: the regularisation images of {subsets[0].image_dir} are not used: their dataset has no "
                "other images. Move them into the dataset with the concept's images."
            )
        return Dataset(subsets=subsets, resolution=size, **rest)

    def _without_repeated(self, subsets: list[Subset | None]) -> list[Subset]:
        """The subsets that show pictures, each folder once per dataset, as in sd-scripts."""
        kept: dict[Path, Subset] = {}
        for subset in subsets:
            if subset and subset.num_repeats < 1:
                self.notices.append(f"WARNING: num_repeats is 0, so {subset.image_dir} is not used.")
            elif subset and Path(subset.image_dir) in kept:
                self.notices.append(
                    f"WARNING: {subset.image_dir} is in the same dataset twice; the first entry is used."
                )
            elif subset:
                kept[Path(subset.image_dir)] = subset
        return list(kept.values())

    def subset(self, table: _Table, values: dict[str, Any], concepts: list[Concept]) -> Subset | None:
        """One of [[datasets.subsets]]; None if it had a mistake."""
        section, own = "datasets.subsets", {field.name for field in dataclasses.fields(Source)}
        inherited = set(self.fields) - DATASET_LEVEL
        given = self._checked(self._with_attributes(table), inherited | own, section)
        places = {key: self._where(table, key, section) for key in given}
        source = build(Source, given, places, self.problems, self.file.where(table.place, section))
        if not source or not concepts:
            return None
        try:
            tokens = given.get("class_tokens", values.get("class_tokens"))
            named = self.unsaid[tokens].name if tokens in self.unsaid and not source.concept else source.concept
            if named is None and source.is_reg:
                named = concepts[0].name
            concept = _concept_name(named, concepts, self._where(table, "concept", section))
        except ConfigError as error:
            self.problems.append(error)
            return None
        held = {key: value for key, value in {**values, **given}.items() if key in inherited}
        kept = {name: value for name, value in vars(source).items() if name != "concept"}
        for name in paths() & set(kept):
            kept[name] = expanded(kept[name])
        if source.conditioning_data_dir and not self.defaults.masked_loss:
            self.notices.append("WARNING: conditioning_data_dir is ignored, because masked_loss is not set.")
            kept["conditioning_data_dir"] = None
        return Subset(**kept, concept=concept, **held)

    def _with_attributes(self, table: _Table) -> _Table:
        """The subset, with its one supported custom attribute added to its keys."""
        rest = {key: value for key, value in table.values.items() if key != "custom_attributes"}
        attributes = table.values.get("custom_attributes", {})
        if not isinstance(attributes, dict):
            where = self._where(table, "custom_attributes", "datasets.subsets")
            self._found(f"{where}: custom_attributes must be a table.", "Remove it.")
            return _Table(table.place, rest)
        for key, value in attributes.items():
            if key == "diff_output_preservation":
                rest[key] = value
                self.notices.append(
                    "diff_output_preservation: on these regularisation images, the student must match the pretrained "
                    "model."
                )
            else:
                self.notices.append(f'WARNING: the custom attribute "{key}" is ignored: nothing reads it.')
        return _Table(table.place, rest)

    def _where(self, table: _Table, key: str, section: str) -> str:
        """Where a table has a key, directly or in the custom attributes."""
        inside = (*table.place, "custom_attributes", key)
        return self.file.where(inside if self.file.has(inside) else (*table.place, key), section)

    def _where_held(self, table: _Table, key: str) -> str:
        """Where a dataset's value is set, in its table or in [general]."""
        places = (*table.place, key), ("general", key)
        return self.file.where(next((place for place in places if self.file.has(place)), places[0]), "datasets")

    def check_whole(self, datasets: list[Dataset], concepts: list[Concept]) -> None:
        """Checks the file as a whole, once its parts are right."""
        shown = {subset.concept for dataset in datasets for subset in dataset.subsets if not subset.is_reg}
        unused = sorted({concept.name for concept in concepts} - shown)
        if not shown and not self.problems:
            self._found(f"{self.file.path} names no images.", "Add a [[datasets.subsets]] with image_dir.")
        elif unused and not self.problems:
            self._found(
                f"{self.file.path}: no subset has images of the concept {', '.join(unused)}.",
                'Add concept = "..." to a [[datasets.subsets]].',
            )

    def _checked(self, table: _Table, allowed: set[str], section: str) -> dict[str, Any]:
        """The entries with allowed keys and values of the right type; all others are problems.

        An empty text leaves a key unset: its default applies, even if an outer table sets another value.
        """
        hints, of_subsets = hints_of(DataSettings), {field.name for field in dataclasses.fields(Source)}
        good: dict[str, Any] = {}
        for key, value in table.values.items():
            where = self._where(table, key, section)
            if key in SUBSET_KEYS_REFUSED:
                self._found(f'{where}: "{key}" is not supported.', SUBSET_KEYS_REFUSED[key])
            elif key in SUBSET_KEYS_PASSED_OVER or key in SUBSET_KEYS_NEEDLESS:
                notice = f"WARNING: {key} is ignored: {SUBSET_KEYS_PASSED_OVER.get(key)}."
                if value and key in SUBSET_KEYS_PASSED_OVER and notice not in self.notices:
                    self.notices.append(notice)
            elif key not in allowed:
                elsewhere = key in self.fields or key in of_subsets
                remedy = f'"{key}" is not allowed here.' if elsewhere else meant(key, allowed)
                self._found(f'{where}: "{key}" is not a key of [{section}].', remedy)
            elif key not in self.fields:
                good |= {key: value} if value != "" else {}  # checked with its group
            elif value == "":
                good[key] = default_of(self.fields[key])
            else:
                try:
                    check_sound(value, key, where)
                    value, _ = VALUES[key](value) if key in VALUES else (value, None)
                    good[key] = check(value, self.fields[key], hints[self.fields[key].name], where, called=key)
                except ConfigError as error:
                    self.problems.append(error)
        return good

    def _found(self, what: str, remedy: str | None = None) -> None:
        self.problems.append(ConfigError(what, remedy))


def read_dataset_config(
    file: TomlFile,
    defaults: DataSettings,
    notices: list[str] | None = None,
    phrase: str | None = None,
    concepts_file: TomlFile | None = None,
) -> DatasetConfig:
    """The concepts and datasets of a file.

    Args:
        file: the dataset config, or the main file if it has them.
        concepts_file: the file with [[concepts]], if not that one.
        defaults: values that the file leaves unset.
        notices: gets a sentence about each of sd-scripts' keys.
        phrase: `metadata_trigger_phrase`, which names the trigger if nothing else does.

    Raises:
        ConfigError: names all mistakes at once.
    """
    reader = _Reader(file, concepts_file or file, defaults, phrase, [] if notices is None else notices)
    if defaults.dataset_config:
        reader.check_top_level()
    concepts, general = reader.concepts(), reader.general()
    found = [reader.dataset(table, general, concepts) for table in reader.tables(file, "datasets")]
    datasets = [dataset for dataset in found if dataset]
    reader.check_whole(datasets, concepts)
    if reader.problems:
        raise all_of(reader.problems)
    return DatasetConfig(concepts=concepts, datasets=datasets)


def read_concepts_and_pictures(
    config: TomlFile | None, settings: Settings, notices: list[str] | None = None
) -> DatasetConfig:
    """The concepts and datasets of a run: from its `dataset_config`, or from the main file if it has them.

    A main file with [[concepts]] adds what a dataset file, or `train_data_dir`, leaves out.
    """
    notices = [] if notices is None else notices
    file = find_dataset_file(config, settings.data, notices)
    concepts_file = config if config and "concepts" in config.tables and "concepts" not in file.tables else None
    return read_dataset_config(file, settings.data, notices, settings.metadata.metadata_trigger_phrase, concepts_file)


def as_size(resolution: int | list[int], where: str) -> tuple[int, int]:
    """(width, height), from one number or two.

    Raises:
        ConfigError: it is neither.
    """
    size = [resolution, resolution] if isinstance(resolution, int) else resolution
    if len(size) != 2 or min(size) < 8:
        raise ConfigError(f"{where}: resolution is {resolution}; it must be a number or [width, height], 8 or more.")
    return size[0], size[1]


def _concept_name(given: str | None, concepts: list[Concept], where: str) -> str:
    """Which concept a subset shows: the one that it names, or the only one."""
    names = [concept.name for concept in concepts]
    if given is None and len(names) == 1:
        return names[0]
    if given is None:
        raise ConfigError(
            f"{where}: concept is missing; with several concepts, each subset must name its own.",
            f"Choose one of: {names}.",
        )
    if given not in names:
        raise ConfigError(f'{where}: concept is "{given}", which isn\'t in [[concepts]].', did_you_mean(given, names))
    return given


def find_dataset_file(config: TomlFile | None, defaults: DataSettings, notices: list[str] | None = None) -> TomlFile:
    """The file that holds concepts and datasets: `dataset_config` if it is set, else the main file or train_data_dir.

    Raises:
        ConfigError: neither has any.
    """
    if defaults.dataset_config:
        with naming("dataset_config"):
            return TomlFile(defaults.dataset_config)
    if config and "datasets" in config.tables:
        return config
    if defaults.train_data_dir:
        tables = folders_as_tables(defaults, [] if notices is None else notices)
        return TomlFile.of_tables(Path(defaults.train_data_dir), tables)
    if config and config.has_pictures:
        return config
    raise ConfigError(
        "Neither dataset_config nor train_data_dir is set, so there is nothing to train on.",
        "Set dataset_config to a file such as dataset_configs/subject.toml.",
    )
