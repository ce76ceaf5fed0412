"""What was read from another trainer's settings: carried over or not."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from library.config.dataset import Source
from library.config.fields import check, hints_of, name_of
from library.config.groups import groups
from library.config.kohya.training import VALUES, Translation
from library.errors import ConfigError
from library.importers.reading import number, shown

Name = str | tuple[str, Callable[[Any], Any]] | None
"""Our name for a setting, and how to convert its value if it differs; None if it has no effect."""
FIELDS = {
    name_of(one): (section, one, hints_of(group)[one.name])
    for section, group in groups().items()
    for one in dataclasses.fields(group)
}
"""Each of our settings: its section, field and type."""
OF_SUBSETS = {
    **{one.name: ("", one, hints_of(Source)[one.name]) for one in dataclasses.fields(Source)},
    "num_repeats": FIELDS["dataset_repeats"],
}
"""The same of what a subset alone may say."""
EMPTY: tuple[object, ...] = (None, "", False, 0, "0", "none", "None", [], {})
"""Values that mean "unset"."""
LONGEST = 300
"""Most characters of a reason; a longer one is replaced by the value."""
MODEL_AND_VAE = ("pretrained_model_name_or_path", "vae")
OUR_MODEL = re.compile(r"sd[-_ ]?3|stable[-_ ]diffusion[-_ ]?3", re.IGNORECASE)
"""What names of checkpoints hold that are for Stable Diffusion 3 or 3.5."""
DTYPES = {
    "fp16": "fp16",
    "float16": "fp16",
    "float_16": "fp16",
    "bf16": "bf16",
    "bfloat16": "bf16",
    "bfloat_16": "bf16",
    "fp32": "no",
    "float32": "no",
    "float_32": "no",
    "no": "no",
}
QUANTIZATIONS = {
    "qfloat8": "fp8",
    "float8": "fp8",
    "float_8": "fp8",
    "qint8": "int8",
    "int8": "int8",
    "int_8": "int8",
    "nfloat_4": "nf4",
}
"""Other trainers' names for the values of `base_quantization`."""


@dataclass
class Imported:
    """A run of another trainer in our settings.

    Args:
        trainer: its name.
    """

    trainer: str
    settings: dict[str, Any] = field(default_factory=dict)
    concept: dict[str, Any] = field(default_factory=dict)
    datasets: list[dict[str, Any]] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    """What is not carried over: their name for it and why, or its value."""
    assumed: dict[str, Any] = field(default_factory=dict)
    """Defaults of the other trainer that are carried over because the file does not set them, by their name there."""
    notices: list[str] = field(default_factory=list)

    def fitted(self, name: str, value: Any, theirs: str) -> Any:
        """The value as a setting or a subset's key takes it; None, with a reason, if it is invalid."""
        _, one, hint = OF_SUBSETS.get(name) or FIELDS[name]
        if name in VALUES:
            value, said = VALUES[name](value)
            self.notices += [said] if said else []
        value = fitting(value, hint)
        try:
            check(value, one, hint, theirs)
        except ConfigError as error:
            if value not in EMPTY:
                what = error.what.removeprefix(f"{theirs}: ")
                self.left_out[theirs] = what if len(what) < LONGEST else shown(value)
            return None
        return value

    def take(self, name: str, value: Any, theirs: str) -> None:
        """Carries a setting over if it may have this value; what is empty or 0 for "unset" is ignored."""
        value = self.fitted(name, value, theirs)
        if value is not None:
            self.settings[name] = value
            self.left_out.pop(theirs, None)

    def take_all(self, table: Mapping[str, Any], names: Mapping[str, Name], at: str) -> None:
        """Carries over all of a table.

        Args:
            names: our name for each of theirs, or with it what to do with the value; None for what has no effect.
            at: where the table stands, as "train.", for what is left out.
        """
        for theirs, value in table.items():
            ours = names.get(theirs)
            if theirs not in names:
                self.leave(f"{at}{theirs}", value)
            elif isinstance(ours, tuple):
                self._take_converted(ours, value, f"{at}{theirs}")
            elif ours is not None and value is not None:
                self.take(ours, value, f"{at}{theirs}")

    def _take_converted(self, ours: tuple[str, Callable[[Any], Any]], value: Any, theirs: str) -> None:
        name, convert = ours
        try:
            converted = convert(value)
        except (AttributeError, TypeError, ValueError, OverflowError):
            converted = None
        if converted is None:
            self.leave(theirs, value)
        else:
            self.take(name, converted, theirs)

    def take_as_sd_scripts(self, values: Mapping[str, Any], theirs: Mapping[str, str]) -> None:
        """Carries over settings under the names of sd-scripts, read as its files are.

        Args:
            theirs: what each is called in the file.
        """
        reading = Translation(dict(values), {name: theirs.get(name, name) for name in values}, [], [])
        reading.map_all(FIELDS)
        for name, value in reading.values.items():
            self.take(name, value, reading.where[name])
        for problem in reading.problems:
            place, _, what = problem.what.partition(": ")
            self.left_out[place] = problem.remedy or what
        self.notices += [said for said in reading.notices if not said.startswith("Not ")]

    def leave(self, theirs: str, value: Any) -> None:
        """Names something that is not carried over, unless it is empty."""
        if value not in EMPTY:
            self.left_out[theirs] = shown(value)

    def over(self, name: str, value: Any, theirs: str, other: str) -> None:
        """Carries over the setting that wins in the other trainer if two of its settings mean the same.

        Args:
            other: what it calls the one that does not count.
        """
        before = self.settings.get(name)
        self.take(name, value, theirs)
        if before is not None and before != self.settings.get(name):
            self.notices.append(f"{theirs} {shown(value)} is used, as in {self.trainer}; {other} is ignored.")

    def is_for(self, model: str) -> None:
        """Notes that the file is for another model and leaves out that model's files.

        Args:
            model: its name.
        """
        if OUR_MODEL.search(str(self.settings.get(MODEL_AND_VAE[0], ""))):
            return
        for name in MODEL_AND_VAE:
            self.leave(name, self.settings.pop(name, None))
        self.notices.insert(
            0,
            f"WARNING: this file is for {model}, but this trainer is for Stable Diffusion 3.5. Review learning rate, "
            "rank, steps and resolution.",
        )

    def tables(self) -> dict[str, Any]:
        """The TOML tables: settings by section, then the concept and the datasets."""
        tables: dict[str, Any] = {}
        for section in groups():
            own = {name: value for name, value in self.settings.items() if FIELDS[name][0] == section}
            if own:
                tables[section] = own
        if self.datasets:
            tables |= {"concepts": [self.concept], "datasets": self.datasets}
        return tables


def fitting(value: Any, hint: Any) -> Any:
    """A value as a setting of this type writes it: numbers that are in quotes, 5.0 for 5, lists that are one text."""
    parts = [part for part in typing.get_args(hint) if part is not type(None)]
    kinds = [hint] if typing.get_origin(hint) in (list, typing.Literal) or not parts else parts
    names = {typing.get_origin(kind) or kind for kind in kinds}
    if list in names and isinstance(value, str) and not names & {str, int}:
        value = value.replace('"', "").split()
    if isinstance(value, list) and list in names:
        (inner,) = typing.get_args(next(kind for kind in kinds if typing.get_origin(kind) is list))
        return [fitting(one, inner) for one in value]
    if isinstance(value, str) and not names & {str, typing.Literal}:
        value = {"true": True, "false": False}.get(value.lower(), value) if bool in names else number(value)
    if isinstance(value, float) and value == int(value) and float not in names:
        return int(value)
    return value


def dtype(value: Any) -> str | None:
    """Their name of a precision as a value of `mixed_precision`."""
    return DTYPES.get(str(value).lower())


def saved_dtype(value: Any) -> str | None:
    """Their name of a precision as a value of `save_precision`."""
    found = dtype(value)
    return "float" if found == "no" else found


def quantization(value: Any) -> str | None:
    """Their name of the bits of frozen weights as a value of `base_quantization`; None for unsupported ones."""
    return QUANTIZATIONS.get(str(value).lower())


def prompt_line(text: Any, options: Mapping[str, Any]) -> str:
    """A line of a prompt file of sd-scripts.

    Args:
        options: "w", "h" and so on; those that are empty are left out.
    """
    words = [f"--{name} {_one_line(value)}" for name, value in options.items() if value not in (None, "", False)]
    return " ".join([_one_line(text), *words])


def _one_line(text: Any) -> str:
    return " ".join(str(text).split())


def folder_and_name(path: Any) -> tuple[str, str]:
    """("models", "dog") of "models/dog.safetensors"."""
    whole = Path(str(path).replace("\\", "/"))
    return str(whole.parent), whole.stem if whole.suffix == ".safetensors" else whole.name


def arguments(table: Mapping[str, Any]) -> list[str]:
    """{"weight_decay": 0.01} as ["weight_decay=0.01"]; a number that is in quotes is a number."""
    values = {name: number(value) if isinstance(value, str) else value for name, value in table.items()}
    return [f"{name}={value if isinstance(value, str) else repr(value)}" for name, value in values.items()
            if value is not None]  # fmt: skip
