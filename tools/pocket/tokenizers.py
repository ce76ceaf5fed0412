"""Tokenizers of the same kinds as Stable Diffusion 3.5's, for the few words of the pocket world.

Each known word is one token. Other words are split into letters, so that every text works.
"""

from __future__ import annotations

import string
from collections import Counter
from itertools import pairwise

from tokenizers import pre_tokenizers
from transformers import CLIPTokenizer, T5Tokenizer

from tools.pocket.captions import vocabulary

LENGTH = 16
"""Tokens of every text, padding included: CLIP's two marks and 14 words, the longest caption."""
START, END = "<|startoftext|>", "<|endoftext|>"
WORD_SCORE, LETTER_SCORE = -4.0, -12.0
"""Log probabilities of T5's pieces: a word is always likelier than its letters."""


def clip_tokenizer(pad: str) -> CLIPTokenizer:
    """CLIP's byte-pair encoding. SD3 pads the first one with the end mark, the second one with "!"."""
    merges = _merges(vocabulary())
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *(a + b for a, b in merges), START, END]
    vocab = {token: k for k, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocab, merges=merges, pad_token=pad, model_max_length=LENGTH)


def t5_tokenizer() -> T5Tokenizer:
    """T5's unigrams."""
    letters = string.ascii_lowercase + string.digits + string.punctuation
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", LETTER_SCORE)]
    pieces += [(f"▁{word}", WORD_SCORE) for word in vocabulary() if len(word) > 1 or word == "a"]
    pieces += [(letter, LETTER_SCORE) for letter in letters]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=LENGTH)


def _merges(words: list[str]) -> list[tuple[str, str]]:
    """Byte pairs to join, in order, until each of the words is one token; the most common pair comes first."""
    pieces = [(*word[:-1], f"{word[-1]}</w>") for word in words]
    merges = []
    while pairs := Counter(pair for piece in pieces for pair in pairwise(piece)):
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        pieces = [_joined(piece, best) for piece in pieces]
    return merges


def _joined(piece: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    out: list[str] = []
    for part in piece:
        if out and (out[-1], part) == pair:
            out[-1] += part
        else:
            out.append(part)
    return tuple(out)
