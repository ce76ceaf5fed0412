"""The tokenizers of Stable Diffusion 3.5, from the vocabularies that come with the project."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from library.models.interface import TokenCount

BUNDLED = Path(__file__).parent / "sd35_medium" / "tokenizers"
CLIP_LENGTH = 77
CLIP_L_PAD, CLIP_G_PAD = "<|endoftext|>", "!"
"""The two CLIPs tokenize texts in the same way, but pad them differently."""
ENCODERS = ("CLIP-L", "CLIP-G", "T5")
STREAM_OF = (0, 0, 1)
"""The text stream of each: the two CLIPs' states are concatenated side by side, T5's follow."""


def bundled_tokenizers(folder: Path) -> list[Any]:
    """CLIP-L's, CLIP-G's and T5's.

    Args:
        folder: holds clip_merges.txt and t5/.
    """
    from transformers import AutoTokenizer, CLIPTokenizer

    merges = clip_merges(folder / "clip_merges.txt")
    vocabulary = clip_vocabulary(merges)
    clips = [
        CLIPTokenizer(
            vocab=vocabulary,
            merges=merges,  # type: ignore[arg-type]  # declared as texts, but must be pairs
            pad_token=pad,
            model_max_length=CLIP_LENGTH,
        )
        for pad in (CLIP_L_PAD, CLIP_G_PAD)
    ]
    # Opened like a downloaded model's; otherwise it assigns some tokens to other characters of the text.
    return [*clips, AutoTokenizer.from_pretrained(folder / "t5", local_files_only=True)]


def usual_counts(texts: Sequence[str]) -> list[list[TokenCount]]:
    """How many tokens of each text the encoders need, by the bundled vocabularies."""
    return counted(_bundled(), [CLIP_LENGTH] * len(ENCODERS), texts)


@cache
def _bundled() -> list[Any]:
    return bundled_tokenizers(BUNDLED)


def clip_merges(path: Path) -> list[tuple[str, str]]:
    """CLIP's byte pair merges, in the order in which they apply."""
    lines = path.read_text(encoding="utf-8").splitlines()
    pairs = (line.split(" ") for line in lines if line and not line.startswith("#version"))
    return [(left, right) for left, right in pairs]


def clip_vocabulary(merges: list[tuple[str, str]]) -> dict[str, int]:
    """CLIP's tokens by number, which follow from the merges.

    First come the 256 bytes, printable ones before the others. The same follow for the end of a word, then each merge's
    result, then the start and end marks.
    """
    printing = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = [chr(byte) for byte in printing] + [chr(256 + index) for index in range(256 - len(printing))]
    tokens = [*letters, *(letter + "</w>" for letter in letters), *(left + right for left, right in merges)]
    return {token: number for number, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}


def counted(tokenizers: Sequence[Any], lengths: Sequence[int], texts: Sequence[str]) -> list[list[TokenCount]]:
    """For each text, how many tokens each of the three encoders needs, start and end included.

    Args:
        lengths: how many each of them takes.
    """
    counts = []
    for name, tokenizer, limit, stream in zip(ENCODERS, tokenizers, lengths, STREAM_OF, strict=True):
        ids = tokenizer(list(texts), truncation=False, verbose=False)["input_ids"] if texts else []
        counts.append([TokenCount(name, len(tokens), limit, stream) for tokens in ids])
    return [list(of_text) for of_text in zip(*counts, strict=True)]


def positions_of(tokenizer: Any, length: int, text: str, span: tuple[int, int]) -> list[int]:
    """The tokens that hold these characters of a text, among those that are read."""
    encoded = tokenizer(text, truncation=True, max_length=length, return_offsets_mapping=True)
    offsets = enumerate(encoded["offset_mapping"])
    return [index for index, (begin, end) in offsets if begin < span[1] and end > span[0] and end > begin]
