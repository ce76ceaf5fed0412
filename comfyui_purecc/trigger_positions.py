"""The places of a trigger's tokens in the context that ComfyUI builds from a prompt.

SD3's context is [CLIP, all chunks of 77 | T5]. The rule is the trainer's: every token that holds characters of the
trigger, at each of its occurrences as a word of its own. ComfyUI cuts a prompt at weights and embeddings into pieces
and tokenizes each apart; its word numbers say which token is of which piece.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from comfy.sd1_clip import escape_important, token_weights, unescape_important

from .concept_file import LoadedConcept

TOKENIZERS = {"l": "clip_l", "g": "clip_g", "t5xxl": "t5xxl"}
"""Token lists, and what their tokenizers and encoders are called."""


@dataclass(frozen=True)
class TriggerToken:
    """One token of a prompt that a concept's vector replaces."""

    position: int
    """Index in the context."""
    vector: int
    """Which of the concept's vectors."""
    weight: float
    """Its weight in the prompt, 1 if it has none."""


@dataclass(frozen=True)
class Token:
    """One token of an encoder's list."""

    position: int
    """Index in the list, over all chunks."""
    id: Any
    """A number, or the tensor of an embedding."""
    weight: float


def find_trigger(clip: Any, text: str, concept: LoadedConcept) -> list[TriggerToken]:
    """The tokens of a prompt that a concept's vectors replace.

    Args:
        clip: ComfyUI's CLIP object of an SD3 model; encoders that are not loaded have no part in the context.

    Raises:
        ValueError: the text encoders are not SD3's, or CLIP-L and CLIP-G cut the prompt differently.
    """
    lists = clip.tokenize(text, return_word_ids=True)
    if not set(TOKENIZERS) <= set(lists):
        raise ValueError("These text encoders are not for SD 3.5. Load clip_l, clip_g and t5xxl with type sd3.")
    loaded = [name for name in TOKENIZERS if getattr(clip.cond_stage_model, TOKENIZERS[name], None) is not None]
    tokenizers = {name: getattr(clip.tokenizer, TOKENIZERS[name]) for name in loaded}
    found = {name: _occurrences(tokenizers[name], lists[name], text, concept.trigger) for name in loaded}
    clips = [name for name in loaded if name != "t5xxl"]
    if len(clips) == 2 and _positions(found["l"]) != _positions(found["g"]):
        raise ValueError(
            f'CLIP-L and CLIP-G split "{text}" differently, so the position of "{concept.trigger}" is unclear.'
        )
    clip_length = min((sum(map(len, lists[name])) for name in clips), default=0)
    tokens = []
    for occurrence in found[clips[0]] if clips else []:
        numbered = zip(occurrence, range(concept.clip_tokens), strict=False)
        tokens += [TriggerToken(token.position, vector, token.weight) for token, vector in numbered]
    for occurrence in found.get("t5xxl", []):
        numbered = zip(occurrence, range(concept.clip_tokens, concept.clip_tokens + concept.t5_tokens), strict=False)
        tokens += [TriggerToken(clip_length + token.position, vector, token.weight) for token, vector in numbered]
    return tokens


def triggers_in(text: str, trigger: str) -> list[tuple[int, int]]:
    """Where the trigger is in a text as a word of its own: (first character, one after the last) each."""
    pattern = rf"(?<!\w){re.escape(trigger)}(?!\w)"
    return [match.span() for match in re.finditer(pattern, text, flags=re.IGNORECASE)]


def _positions(occurrences: list[list[Token]]) -> list[list[int]]:
    return [[token.position for token in occurrence] for occurrence in occurrences]


def _occurrences(tokenizer: Any, chunks: Sequence[Sequence], text: str, trigger: str) -> list[list[Token]]:
    """The tokens of each occurrence of the trigger in one encoder's list."""
    found = []
    for piece, tokens in _pieces(tokenizer, _by_word(chunks), text):
        for span in triggers_in(piece, trigger):
            found.append([tokens[index] for index in tokens_of(tokenizer, piece, span) if index < len(tokens)])
    return [occurrence for occurrence in found if occurrence]


def _by_word(chunks: Sequence[Sequence]) -> dict[int, list[Token]]:
    """The tokens of each word number; begin, end and padding have the number 0 and are left out."""
    words: dict[int, list[Token]] = {}
    entries = (entry for chunk in chunks for entry in chunk)
    for position, (token, weight, word) in enumerate(entries):
        if word:
            words.setdefault(word, []).append(Token(position, token, weight))
    return words


def _pieces(tokenizer: Any, words: Mapping[int, list[Token]], text: str) -> Iterator[tuple[str, list[Token]]]:
    """The pieces of a prompt that were tokenized as text, each with its tokens."""
    number = 1
    for piece, is_embedding in _cut(tokenizer, text):
        if is_embedding:
            is_loaded = any(not isinstance(token.id, int) for token in words.get(number, []))
            number += is_loaded
            piece = _behind_embedding(tokenizer, piece, words.get(number, []))
        if piece:
            yield piece, words.get(number, [])
            number += 1


def _cut(tokenizer: Any, text: str) -> Iterator[tuple[str, bool]]:
    """The pieces that ComfyUI tokenizes apart, and whether each begins with an embedding."""
    mark = tokenizer.embedding_identifier
    for segment, _ in token_weights(escape_important(text), 1.0):
        first, *others = re.split(f" {mark}|\n{mark}", unescape_important(segment))
        for piece in (first, *(mark + other for other in others)):
            if piece:
                yield piece, piece.startswith(mark) and tokenizer.embedding_directory is not None


def _behind_embedding(tokenizer: Any, piece: str, tokens: list[Token]) -> str:
    """The text that follows an embedding's name in a piece; commas that stand at the name may be of it or not."""
    name, *rest = piece[len(tokenizer.embedding_identifier) :].strip("\n").split()
    commas = name[len(name.strip(",")) :]
    for candidate in (f"{commas} {' '.join(rest)}", " ".join(rest)):
        if tokens and _ids(tokenizer, candidate) == [token.id for token in tokens]:
            return candidate
    return ""


def _ids(tokenizer: Any, text: str) -> list[int]:
    """The tokens of a text without begin and end."""
    ids = tokenizer.tokenizer(text)["input_ids"]
    return list(ids[tokenizer.tokens_start : -1 if tokenizer.tokenizer_adds_end_token else None])


def tokens_of(tokenizer: Any, text: str, span: tuple[int, int]) -> list[int]:
    """Which tokens of a text, counted without begin and end, hold characters of a part of it."""
    return [index for index, (begin, end) in enumerate(spans_of(tokenizer, text)) if begin < span[1] and end > span[0]]


def spans_of(tokenizer: Any, text: str) -> list[tuple[int, int]]:
    """The characters of each token.

    T5 may have a token of its own for "a word begins here". Versions of transformers differ on whether it holds the
    space before the word or the word's first letter; here it holds the letter, as in training.
    """
    if not getattr(tokenizer.tokenizer, "is_fast", False):
        return spans_by_bytes(tokenizer, text)
    encoded = tokenizer.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    spans = []
    for begin, end in encoded[tokenizer.tokens_start : -1 if tokenizer.tokenizer_adds_end_token else None]:
        while begin < len(text) and text[begin].isspace():
            begin += 1
        spans.append((begin, max(begin + 1, end)))
    return spans


def spans_by_bytes(tokenizer: Any, text: str) -> list[tuple[int, int]]:
    """The same for CLIP's older tokenizers, whose tokens spell the bytes of the text in lower case without spaces."""
    ids = _ids(tokenizer, text)
    lengths = [len(piece.removesuffix("</w>")) for piece in tokenizer.tokenizer.convert_ids_to_tokens(ids)]
    owners = [index for index, sign in enumerate(text) if not sign.isspace() for _ in sign.lower().encode()]
    if sum(lengths) != len(owners):
        raise ValueError(
            f"\"{text}\" contains characters that CLIP's tokenizer changes, so the trigger can't be located reliably. "
            "Write it in plain characters."
        )
    ends = list(accumulate(lengths))
    return [(owners[end - length], owners[end - 1] + 1) for end, length in zip(ends, lengths, strict=True)]
