"""What was read of another trainer's settings: what is carried over, and what is not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from library.config.fields import check, hints_of, name_of
from library.config.kohya import VALUES, Reading
from library.config.settings import GROUPS
from library.errors import ConfigError

Name = str | tuple[str, Callable[[Any], Any]] | None
"""Our name for a setting, with what to do with its value if it is another one; None for what has no effect."""
FIELDS = {
    name_of(one): (section, one, hints_of(group)[one.name])
    for section, group in GROUPS.items()
    for one in dataclasses.fields(group)
}
"""Each of our settings: its section, field and type."""
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
"""What other trainers call the values of `base_quantization`."""


@dataclass
class Imported:
    """A run of another trainer in our words.

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
    notices: list[str] = field(default_factory=list)

    def take(self, name: str, value: Any, theirs: str) -> None:
        """Carries a setting over if it may have this value; what is empty or 0 for "unset" is passed over."""
        if name not in FIELDS:
            reading = Reading({name: value}, {name: theirs}, [], [])
            reading.map_all(FIELDS)
            self.settings.update(reading.values)
            for problem in reading.problems:
                self.left_out[theirs] = str(problem.remedy or problem.what)
            self.notices += [said for said in reading.notices if not said.startswith("Not ")]
            return
        _, one, hint = FIELDS[name]
        if name in VALUES:
            value, said = VALUES[name](value)
            self.notices += [said] if said else []
        value = _number(value, hint)
        try:
            check(value, one, hint, theirs)
        except ConfigError as error:
            if value not in (None, "", 0, "0", "none", []):
                self.left_out[theirs] = str(error.what)
            return
        self.settings[name] = value

    def take_all(self, table: Mapping[str, Any], names: Mapping[str, Name], at: str) -> None:
        """Carries over all of a table.

        Args:
            names: our name for each of theirs, or with it what to do with the value; None for what has no effect.
            at: where the table stands, as "train.", for what is left out.
        """
        for theirs, value in table.items():
            if theirs not in names:
                if value not in (None, "", False, 0, [], {}):
                    self.left_out[f"{at}{theirs}"] = f"{value!r}"[:60]
                continue
            ours = names[theirs]
            if isinstance(ours, tuple):
                ours, convert = ours
                value = convert(value)
            if ours and value is not None:
                self.take(ours, value, f"{at}{theirs}")

    def tables(self) -> dict[str, Any]:
        """The TOML tables: settings by section, then the concept and the datasets."""
        tables: dict[str, Any] = {}
        for section in GROUPS:
            own = {name: value for name, value in self.settings.items() if FIELDS[name][0] == section}
            if own:
                tables[section] = own
        if self.datasets:
            tables |= {"concepts": [self.concept], "datasets": self.datasets}
        return tables


def _number(value: Any, hint: Any) -> Any:
    """A number that stands in quotes, and a whole number that is written as 5.0."""
    text_allowed = hint is str or "str" in str(hint)
    if isinstance(value, str) and not text_allowed:
        for kind in (int, float):
            try:
                return kind(value)
            except ValueError:
                continue
    if isinstance(value, float) and value == int(value) and "float" not in str(hint):
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
    """Their name of the bits of frozen weights as a value of `base_quantization`; None for those that are none here."""
    return QUANTIZATIONS.get(str(value).lower())


def prompt_line(text: str, options: Mapping[str, Any]) -> str:
    """A line of a prompt file of sd-scripts.

    Args:
        options: "w", "h" and so on; those that are None or empty are left out.
    """
    words = [f"--{name} {value}" for name, value in options.items() if value not in (None, "")]
    return " ".join([" ".join(text.split()), *words])


def folder_and_name(path: Any) -> tuple[str, str]:
    """("models", "dog") of "models/dog.safetensors"."""
    whole = Path(str(path).replace("\\", "/"))
    return str(whole.parent), whole.stem if whole.suffix == ".safetensors" else whole.name


def arguments(table: Mapping[str, Any]) -> list[str]:
    """{"weight_decay": 0.01} as ["weight_decay=0.01"]."""
    return [f"{name}={value!r}" for name, value in table.items() if value is not None]
