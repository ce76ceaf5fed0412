"""What other programs write in captions where [V] is meant here, and other spellings of [V] itself."""

from __future__ import annotations

import re

from library.config.dataset import PLACEHOLDER

BRACKETED = (
    "v",
    "v*",
    "s*",
    "trigger",
    "trigger word",
    "trigger_word",
    "triggerword",
    "name",
    "token",
    "identifier",
    "concept",
    "subject",
    "instance",
    "placeholder",
    "embedding",
)
"""Words that stand for a concept where they are in [], <> or {}."""
BARE = (r"V\*", r"S\*", "TOK")
"""What papers and trainers write without brackets, apart from the {} of Python's templates."""
FOREIGN = re.compile(
    rf"[\[<{{［【]{{1,2}} ?(?i:{'|'.join(re.escape(word) for word in BRACKETED)}) ?[\]>}}］】]{{1,2}}|{{}}"
    rf"|(?<![\w*])(?:{'|'.join(BARE)})(?![\w*])"
)


def foreign_placeholders(text: str, trigger: str = "") -> list[str]:
    """The placeholders of a caption that mean nothing here, as they are written, each once: "[trigger]", "<v>" ...

    Args:
        trigger: of the concept; what it holds itself is meant as it stands.
    """
    found = dict.fromkeys(match[0] for match in FOREIGN.finditer(text))
    return [one for one in found if one != PLACEHOLDER and one not in trigger]


def with_our_placeholder(text: str, trigger: str = "") -> str:
    """A caption or prompt with [V] where it has a placeholder of another program, such as ai-toolkit's [trigger].

    Args:
        trigger: see `foreign_placeholders`.
    """
    return FOREIGN.sub(lambda match: match[0] if match[0] in trigger else PLACEHOLDER, text)
