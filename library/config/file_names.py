"""File names that work on every system, so that a folder of results can be copied to any other."""

from __future__ import annotations

import re
import unicodedata

FORBIDDEN = frozenset('<>:"/\\|?*')
"""Characters that Windows reserves, or that turn a name into a path."""
DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9\u00b9\u00b2\u00b3])\s*(\.|$)", re.IGNORECASE)
"""Names that are devices on Windows, with any ending."""


def why_not_a_name(name: str) -> str | None:
    """Why `name` can't be the start of a file's name on every system; None if it can."""
    strange = next((letter for letter in name if unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp")), None)
    forbidden = next((letter for letter in name if letter in FORBIDDEN), None)
    if not name:
        return "it is empty"
    if strange:
        return f"it contains the control character {strange!r}"
    if forbidden:
        return f"it contains {forbidden}"
    if name.startswith("."):
        return "it starts with a dot, so it would be hidden"
    if name[-1] == "." or name[-1].isspace():
        return "it ends in a dot or a space, which Windows drops"
    return "it is the name of a device on Windows" if DEVICES.match(name) else None


def why_not_an_ending(ending: str) -> str | None:
    """Why `ending` can't be the ending of a file's name, with or without its dot; None if it can."""
    return why_not_a_name(f"a{ending}") if ending.strip(".") else "it is empty"


def why_not_a_path(path: str) -> str | None:
    """Why `path` can't be a path; None if it can."""
    strange = next((letter for letter in path if unicodedata.category(letter) in ("Cc", "Cs")), None)
    if path.isspace():
        return "it must not be empty"
    return f"it contains the control character {strange!r}" if strange else None
