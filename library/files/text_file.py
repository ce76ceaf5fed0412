"""Text files as editors write them: UTF-8 with or without a byte order mark, or UTF-16 with one."""

from __future__ import annotations

import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from pathlib import Path

from library.errors import ConfigError, PureCCError

HALF_OF_A_CHARACTER = re.compile("[\ud800-\udfff]")
"""Surrogates, which JSON can write and no encoding can."""
IN_NO_FILE = re.compile("[\0\ud800-\udfff]")
"""A character that neither a text nor a path can contain."""
LONGEST = 1 << 20
"""Most bytes of a text file; captions and prompts have a few kB."""


def read_text(file: Path, what: str = "", kind: type[PureCCError] = ConfigError, longest: int = LONGEST) -> str:
    """The text of a file, without its mark; line ends are as they are there.

    Args:
        what: start of the error's sentence, such as "The caption" or "sample_prompts:".
        kind: of the error.
        longest: bytes that it may have.

    Raises:
        PureCCError: of that kind: another encoding, no text at all, too long, or it can't be read.
    """
    named = f"{what} {file}".lstrip()
    try:
        size = file.stat().st_size
        content = file.read_bytes() if size <= longest else b""
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = getattr(error, "strerror", None) or error
        raise kind(f"{named} can't be read: {reason}.", "It must be a text file.") from error
    if size > longest:
        raise kind(f"{named} is larger than {longest / (1 << 20):.3g} MB.", "Check that this is the right file.")
    encoding = "utf-16" if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        place = f"byte 0x{content[error.start]:02X} in line {line} can't be read"
        raise kind(f"{named} is not UTF-8 text: {place}.", "Save it as UTF-8.") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise kind(
            f"{named} is not a text file: it contains zero bytes, the first in line {line}.", "Save it as UTF-8."
        )
    return text
