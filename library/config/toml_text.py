"""Parses the text of a TOML or JSON file: what it holds and where, or what is wrong, in plain words."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

from library.config.places import Place, Places, places_in
from library.errors import ConfigError
from library.files.text_file import HALF_OF_A_CHARACTER

AT = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")
"""The place of a mistake in the parser's message."""
DEEPEST = 100
"""Deepest nesting of lists and tables; settings have about five levels."""
MOST_DIGITS = 4000
"""About the most digits of a whole number that Python reads."""
QUOTES = "Use 'single quotes' or / in Windows paths: in double quotes, a backslash starts an escape such as \\n."
"""How to write a Windows path."""
KEY = re.compile(r"\s*([A-Za-z0-9_-]+)\s*=")
CURLY = re.compile("[\u2018-\u201f\u00ab\u00bb\u2032\u2033]")
UNQUOTED = re.compile(r"""=\s*(?:\[\s*)?(?!true\b|false\b)[^\s"'\[\]{}#0-9+\-.,=]|=\s*[./~]""")
CAPITAL = re.compile(r"=\s*(?:\[\s*)?(True|False|None)\b")


def parsed(text: str, path: Path) -> tuple[Any, Places]:
    """What a text holds, and where: JSON if the path says so, else TOML.

    Raises:
        ConfigError: it is neither, or sets something twice.
    """
    is_json = path.suffix.lower() == ".json"
    try:
        tables = json.loads(text) if is_json else tomllib.loads(text)
        places = places_in(text, is_json)
        _check_texts(tables, (), places, path)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}:{error.lineno} is not valid JSON: {_begun_small(error.msg)}.") from error
    except tomllib.TOMLDecodeError as error:
        raise _not_toml(str(error), text, path) from error
    except ValueError as error:  # Python can't read a whole number of more than a few thousand digits
        line = next((number for number, line in enumerate(text.split("\n"), 1) if _has_long_number(line)), 1)
        raise ConfigError(
            f"{path}:{line} contains a number with thousands of digits.", "Check that this is the right file."
        ) from error
    except RecursionError as error:
        raise _too_deep(path) from error
    if is_json and places.twice:
        raise _stands_twice(places.twice, path)
    return tables, places


def _has_long_number(line: str) -> bool:
    return any(len(digits) > MOST_DIGITS for digits in re.findall(r"\d+", line))


def _too_deep(path: Path) -> ConfigError:
    return ConfigError(f"{path} has too many nested lists to be read.")


def _check_texts(value: Any, place: Place, places: Places, path: Path) -> None:
    """Refuses deep nesting, and half characters, which JSON can write but no file can hold."""
    if len(place) > DEEPEST:
        raise _too_deep(path)
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        for text in (key, one):
            if isinstance(text, str) and HALF_OF_A_CHARACTER.search(text):
                line = places.line_of((*place, key))
                raise ConfigError(
                    f"{path}:{line}: {text!r} contains half of a character.", "Write the character itself."
                )
        _check_texts(one, (*place, key), places, path)


def _stands_twice(twice: tuple[Place, int, int], path: Path) -> ConfigError:
    place, first, second = twice
    name = place[-1] if isinstance(place[-1], str) else place[-2]
    return ConfigError(f'{path}:{second}: "{name}" is already set at {path}:{first}.', "Remove one of them.")


def _not_toml(said: str, text: str, path: Path) -> ConfigError:
    """The parser's message for a text that is not TOML, and what was most likely meant."""
    at, lines = AT.search(said), text.replace("\r\n", "\n").split("\n")
    number = int(at[1]) if at and at[1] else len(lines)
    twice = places_in(text).twice
    if twice and twice[2] <= number:
        return _stands_twice(twice, path)
    line = lines[number - 1] if number <= len(lines) else ""
    key = KEY.match(line)
    begin = f"{path}:{number}: the value of {key[1]}" if key else f"{path}:{number}"
    what = f"{begin} is not valid TOML: {_begun_small(AT.sub('', said))}."
    return ConfigError(what, _remedy_for(line))


def _remedy_for(line: str) -> str | None:
    """What to write instead of a line that is not TOML."""
    if CURLY.search(line):
        return "The quotes are curly; use straight ones: 'text'."
    if "\\" in line:
        return QUOTES
    capital = CAPITAL.search(line)
    if capital:
        return "Remove the line." if capital[1] == "None" else f"Write {capital[1].lower()}."
    return "Put strings and paths in 'single quotes'." if UNQUOTED.search(line) else None


def _begun_small(message: str) -> str:
    """A parser's message, for the end of a sentence."""
    return message[:1].lower() + message[1:].rstrip(".")
