"""Reads files of other trainers as plain data: tables, lists, texts, true and false, and finite numbers."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from library.config.files import settings_text
from library.errors import ConfigError
from library.files.text_file import IN_NO_FILE

MOST_VALUES = 100_000
"""Most values in a settings file; a few lines of YAML can expand to billions."""
DEEPEST = 50
"""Deepest nesting of tables in a settings file."""
LARGEST_NUMBER = 1e30
"""A larger number is damage, not a setting."""
SHOWN = 60
"""Most characters of a value in a message."""
EXPONENT = re.compile(r"^[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$")
"""Numbers such as 1e-4, which are text in YAML 1.1 but numbers for ai-toolkit."""


def read_data(path: Path) -> Any:
    """What a JSON or YAML file holds; numbers that are not finite become text.

    Raises:
        ConfigError: no such file, too large, damaged, or with values that no setting can have.
    """
    if not os.path.isfile(path):
        raise ConfigError(f"The file {path.absolute()} doesn't exist.", "Give a JSON or YAML file of another trainer.")
    text = settings_text(path)
    try:
        return _Plain(path).of(_yaml(text) if path.suffix.lower() in (".yaml", ".yml") else json.loads(text))
    except ConfigError:
        raise
    except Exception as error:  # the parsers' own errors, and those that damaged files cause
        why = " ".join(str(error).split())[:300]
        raise ConfigError(f"{path} can't be read: {why}.", "Save it again in its own trainer.") from error


def _yaml(text: str) -> Any:
    import yaml  # comes with huggingface_hub

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_implicit_resolver("tag:yaml.org,2002:float", EXPONENT, list("-+0123456789"))
    return yaml.load(text, Loader)


class _Plain:
    """Turns what a parser made into plain data, within bounds."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.left = MOST_VALUES

    def of(self, value: Any, depth: int = 0) -> Any:
        """The same without what is not plain: dates, NaN, keys that are numbers ... become text."""
        self.left -= 1
        if self.left < 0 or depth > DEEPEST:
            raise ConfigError(f"{self.path} is too large for a settings file.", "Check that this is the right file.")
        if isinstance(value, Mapping):
            return {self._text(key): self.of(entry, depth + 1) for key, entry in value.items()}
        if isinstance(value, list | tuple | set):
            return [self.of(entry, depth + 1) for entry in value]
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int | float) and abs(value) < LARGEST_NUMBER:
            return value
        return self._text(value)

    def _text(self, value: Any) -> str:
        text = str(value)
        if IN_NO_FILE.search(text):
            raise ConfigError(f"{self.path} contains an invalid character: {shown(text)}.", "It may be damaged.")
        return text


def number(text: str) -> int | float | str:
    """The finite number in a text; the text itself if there is none."""
    for kind in (int, float):
        try:
            found = kind(text)
        except ValueError:
            continue
        if abs(found) < LARGEST_NUMBER:
            return found
    return text


def shown(value: Any) -> str:
    """A value in a message, cut short."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 4]} ..."


def table(value: Any, name: str) -> dict[str, Any]:
    """A table of a file; an empty one where there is none.

    Args:
        name: what it is called there.

    Raises:
        ConfigError: something else is there.
    """
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{name} is {shown(value)}; it must be a table.", "Save it again in its own trainer.")
    return value


def tables(value: Any, name: str) -> list[dict[str, Any]]:
    """A list of tables of a file; an empty one where there is none.

    Raises:
        ConfigError: something else is there.
    """
    if value is None:
        return []
    if not isinstance(value, list):
        raise ConfigError(f"{name} is {shown(value)}; it must be a list.", "Save it again in its own trainer.")
    return [table(one, f"{name}[{place}]") for place, one in enumerate(value)]
