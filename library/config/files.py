"""TOML files and the command line, read into `Settings`. Command line beats file beats default, as in sd-scripts."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import typing
from pathlib import Path
from typing import Any, NoReturn

import toml

from library.config.family_settings import FAMILY_SETTINGS
from library.config.fields import (
    build,
    check_sound,
    default_of,
    from_command_line,
    hints_of,
    name_of,
    placeholder,
)
from library.config.groups import groups, setting_names
from library.config.kohya.training import Translation, expanded, known_names
from library.config.method_rules import apply_method, check_method, unread
from library.config.places import Place, Places
from library.config.settings import SECTIONS, Settings
from library.config.synonyms import meant
from library.config.toml_text import parsed
from library.errors import MOST_PROBLEMS, ConfigError, PureCCError, all_of, did_you_mean
from library.files.text_file import read_text

DATASET_TABLES = ("general", "datasets", "concepts")
"""Top-level tables that belong to the dataset config, in any file."""
LARGEST = 1_000_000
"""Most bytes of a settings file."""
OF_THE_COMMAND = frozenset({"config_file", "output_config"})
"""Settings in sd-scripts that exist only on the command line here."""
OFTEN_CHANGED = frozenset(
    {
        "pretrained_model_name_or_path",
        *("base_quantization", "blocks_to_swap", "auto_fit"),
        *("dataset_config", "train_data_dir", "trigger", "class_word"),
        *("resolution", "train_batch_size", "validation_split"),
        *("method", "network_dim", "network_alpha"),
        *("eta", "max_train_steps", "learning_rate", "optimizer_type", "lr_scheduler"),
        *("ema_decay", "seed"),
        *("output_dir", "output_name", "save_every_n_steps", "resume"),
        *("sample_prompts", "sample_every_n_steps"),
    }
)
"""The settings that `--help` shows, besides those of families. `--help_all` shows all settings."""


def often_changed() -> frozenset[str]:
    """The settings that `--help` shows."""
    return OFTEN_CHANGED.union(*(one.often_changed for one in FAMILY_SETTINGS.values()))


def settings_text(path: Path) -> str:
    """The text of an existing settings file.

    Raises:
        ConfigError: it is too large for one, or not a text.
    """
    size = path.stat().st_size
    if size > LARGEST:
        raise ConfigError(
            f"{path} has {size / 1e6:.1f} MB; a settings file has a few kB.", "Check that this is the right file."
        )
    return read_text(path)


class TomlFile:
    """A TOML or JSON file that knows where its keys are.

    Raises:
        ConfigError: there is no such file, or it is neither.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(expanded(str(path)))
        if not self.path.is_file() and self.path.with_name(self.path.name + ".toml").is_file():
            self.path = self.path.with_name(self.path.name + ".toml")
        if not self.path.is_file():
            folder = self.path.parent
            near = [str(other) for other in folder.glob("*.toml")] if folder.is_dir() else []
            remedy = did_you_mean(str(self.path), near) if near else f"The folder {folder} contains no TOML file."
            raise ConfigError(f"There is no file {self.path}.", remedy)
        self.tables: dict[str, Any]
        self.tables, self.places = parsed(settings_text(self.path), self.path)
        if isinstance(self.tables, list):
            self.tables = {"prompt": {"subset": self.tables}}  # sd-scripts writes sample prompts as a list
            self.places = self.places.inside(("prompt", "subset"))
        if not isinstance(self.tables, dict):
            raise ConfigError(f"{self.path} contains no settings: it must be an object, {{...}}.")

    @classmethod
    def of_tables(cls, path: Path, tables: dict[str, Any]) -> TomlFile:
        """Tables made from a folder instead of a file."""
        file = cls.__new__(cls)
        file.path = path
        file.tables = tables
        file.places = Places()
        return file

    @property
    def has_pictures(self) -> bool:
        """Whether it has a dataset config; without one, [general] is a section like any other."""
        return any(isinstance(self.tables.get(key), list) for key in ("datasets", "concepts"))

    def has(self, place: Place) -> bool:
        """Whether the file has a value."""
        return place in self.places.lines

    def where(self, place: Place, section: str | None = None) -> str:
        """File, line and section of a value, for an error message; for a missing one, where it should be."""
        line = self.places.line_of(place)
        found = f"{self.path}:{line}" if line else str(self.path)
        return f"{found} [{section}]" if section else found


def _flatten(file: TomlFile, problems: list[PureCCError]) -> tuple[dict[str, Any], dict[str, str]]:
    """All settings of a file by name, and where each one is. Unknown ones are problems."""
    values: dict[str, Any] = {}
    where: dict[str, str] = {}
    known = {*setting_names(), *known_names()}
    for key, value in file.tables.items():
        if key in DATASET_TABLES and file.has_pictures:
            continue
        section, entries = (key, value) if isinstance(value, dict) else (None, {key: value})
        for name, entry in entries.items():
            if len(problems) > MOST_PROBLEMS:
                return values, where
            place = file.where((section, name) if section else (name,), section)
            if name not in known:
                problems.append(ConfigError(f'{place}: "{name}" is not a setting.', meant(name, known)))
            elif name in values:
                problems.append(ConfigError(f'{place}: the setting "{name}" is already set at {where[name]}.'))
            else:
                values[name], where[name] = entry, place
    return values, where


def read_settings(
    file: TomlFile | None, command_line: dict[str, Any] | None = None, notices: list[str] | None = None
) -> Settings:
    """Settings from a file, overridden by the command line.

    Args:
        file: the config file, if any.
        command_line: settings from the command line, by name, as parsed by `parse_command_line`.
        notices: gets a sentence about each of sd-scripts' settings.

    Raises:
        ConfigError: names all mistakes at once: unknown settings, wrong types, values out of range.
    """
    problems: list[PureCCError] = []
    values, where = _flatten(file, problems) if file else ({}, {})
    for name, value in (command_line or {}).items():
        values[name], where[name] = value, "command line"
    _without_unusable(values, where, problems)
    reading = Translation(values, where, [] if notices is None else notices, problems)
    reading.map_all(setting_names())
    apply_method(values, where, reading.notices)
    built: dict[str, Any] = {section: build(group, values, where, problems) for section, group in groups().items()}
    if problems:
        raise all_of(problems)
    settings = Settings(**built)
    check_method(settings, reading.notices)
    return settings


def _without_unusable(values: dict[str, Any], where: dict[str, str], problems: list[PureCCError]) -> None:
    """Removes values that no setting can use, which are problems, and empty texts, which leave a setting unset."""
    for name, value in list(values.items()):
        try:
            check_sound(value, name, where[name])
        except ConfigError as error:
            problems.append(error)
        else:
            if value != "":
                continue
        del values[name], where[name]


def add_settings_to(parser: argparse.ArgumentParser, sections: tuple[str, ...] = tuple(SECTIONS)) -> None:
    """Adds an option for each setting to the parser, in groups, with its sentence as help, and `--help_all`."""
    known = groups()
    parser.add_argument("--help_all", action=_HelpAll, nargs=0, help="Show this help with all settings, and exit.")
    often = often_changed()
    parser.epilog = f"These are the {len(often)} settings that people change. --help_all shows all of them."
    for section in sections:
        options, hints = parser.add_argument_group(f"[{section}]"), hints_of(known[section])
        for field in dataclasses.fields(known[section]):
            name, hint = name_of(field), hints[field.name]
            about = _about(field) if name in often else argparse.SUPPRESS
            option: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": about}
            if hint is bool:
                options.add_argument(f"--{name}", f"--no_{name}", action=_OnOff, nargs=0, **option)
            else:
                many: dict[str, Any] = {"nargs": "*"} if typing.get_origin(hint) is list else {}
                options.add_argument(f"--{name}", metavar=placeholder(hint), **many, **option)
    for name in sorted(known_names() - set(setting_names()) - OF_THE_COMMAND):
        parser.add_argument(f"--{name}", nargs="*", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def _about(field: dataclasses.Field[Any]) -> str:
    """A setting's sentence and default, for argparse."""
    default = default_of(field)
    wanted = "" if default is dataclasses.MISSING or default is None else f" Default: {default}."
    return f"{field.metadata['help']}{wanted}".replace("%", "%%")


class _HelpAll(argparse.Action):
    """--help_all: the help with all settings."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        about = {name_of(field): _about(field) for group in groups().values() for field in dataclasses.fields(group)}
        for option in parser._actions:
            option.help = about.get(option.dest, option.help)
        parser.epilog = None
        parser.print_help()
        parser.exit()


class _OnOff(argparse.Action):
    """--flag turns it on, --no_flag off."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        setattr(namespace, self.dest, option_string == f"--{self.dest}")  # "no_metadata" is a setting itself


class _Parser(argparse.ArgumentParser):
    """Suggests the nearest known option for an unknown one, in a ConfigError."""

    def error(self, message: str) -> NoReturn:
        unknown = re.search(r"unrecognized arguments: --(\S+)", message)
        options = [option.lstrip("-") for action in self._actions for option in action.option_strings]
        remedy = meant(unknown[1].partition("=")[0], options) if unknown else f"See {self.prog} --help."
        raise ConfigError(f"Command line: {message}.", remedy)


def plain_parser(description: str, usage: str) -> argparse.ArgumentParser:
    """A parser whose mistakes are `ConfigError`s."""
    return _Parser(description=description, allow_abbrev=False, usage=f"%(prog)s {usage}")


def command_line_parser(description: str) -> argparse.ArgumentParser:
    """The same with --config_file."""
    parser = plain_parser(description, "[--config_file FILE] [--setting value ...]")
    parser.add_argument(
        "--config_file", metavar="FILE", help="TOML or JSON file with settings, such as presets/lean.toml."
    )
    return parser


def output_config_of(arguments: argparse.Namespace) -> Path | None:
    """The file that --output_config names; None if it is not given.

    Without a name it is the file of --config_file, which is then not read, as in sd-scripts.

    Raises:
        ConfigError: no file is named, or it exists already.
    """
    if arguments.output_config is None:
        return None
    name = arguments.output_config or arguments.config_file
    if not name:
        raise ConfigError("--output_config needs a file name.", "Write --output_config FILE.")
    target = Path(expanded(name))
    target = target if target.suffix == ".toml" else target.with_name(target.name + ".toml")
    if target.exists():
        raise ConfigError(
            f"--output_config: {target} already exists.", "Choose another file name, or move that file away."
        )
    if not arguments.output_config:
        arguments.config_file = None
    return target


def config_file_of(arguments: argparse.Namespace) -> TomlFile | None:
    """The file that --config_file names, if it is given."""
    return TomlFile(arguments.config_file) if arguments.config_file else None


def settings_given(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings in parsed arguments, by name, converted from text to values."""
    hints = {
        name_of(field): hints_of(group)[field.name]
        for group in groups().values()
        for field in dataclasses.fields(group)
    }
    given = {name: _value(value, hints[name]) for name, value in vars(arguments).items() if name in hints}
    of_kohya = {name: value for name, value in vars(arguments).items() if name in known_names() and name not in given}
    for name, words in of_kohya.items():
        if name not in OF_THE_COMMAND:
            values = [from_command_line(word, float) for word in words]
            given[name] = True if not values else values[0] if len(values) == 1 else values
    return given


def _value(given: Any, hint: Any) -> Any:
    """What was parsed, as a value; a list is converted word by word."""
    if isinstance(given, list):
        (inner,) = typing.get_args(hint)
        return [from_command_line(word, inner) for word in given]
    return from_command_line(given, hint) if isinstance(given, str) else given


def to_toml(tables: dict[str, Any]) -> str:
    """Tables as TOML, which reads back as the same tables.

    Texts are written as in JSON, which is valid TOML, too; the package's own way breaks Windows paths such as
    C:\\x.
    """
    encoder = toml.TomlEncoder()
    encoder.dump_funcs[str] = lambda text: json.dumps(text, ensure_ascii=False)
    return toml.dumps(tables, encoder=encoder)


def as_tables(settings: Settings, shaping_only: bool = False) -> dict[str, dict[str, Any]]:
    """Settings as TOML sections, without those that are unset, overridden by another one or not used by the method.

    Args:
        shaping_only: only settings that shape training, which a resumed run must keep.
    """
    needless = unread(settings.method.method, settings.method.with_embeddings)
    if settings.optimizer.max_train_epochs is not None:
        needless |= {"max_train_steps"}
    return {
        section: {
            name_of(field): value
            for field in dataclasses.fields(group)
            if name_of(field) not in needless
            and (value := getattr(getattr(settings, section), field.name)) is not None
            and (field.metadata["shapes_training"] or not shaping_only)
        }
        for section, group in groups().items()
    }
