"""Prompts to draw, in the file format of sd-scripts: one per line, with options such as `--d 7 --w 512` behind it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from library.config.dataset import PLACEHOLDER, Concept
from library.config.fields import conforms, describe
from library.config.files import TomlFile
from library.config.kohya.training import expanded
from library.errors import ConfigError, ModelError, did_you_mean
from library.files.text_file import HALF_OF_A_CHARACTER, read_text
from library.prompts import NULL_PROMPT, PromptTriple, triggers_in, without_concept

OPTIONS = {"w": int, "h": int, "d": int, "s": int, "l": float, "n": str, "g": float, "fs": float}
"""--w width, --h height, --d seed, --s steps, --l guidance scale, --n negative prompt, --fs shift of the noise levels.
--g, which sd-scripts has for distilled models, is accepted and has no effect."""
PASSED_OVER = {
    "ss": "sheets use Euler's method, as ComfyUI does for this model",
    "cn": "ControlNet is not supported",
    "i": "this model only draws from a prompt",
    "am": "there is one LoRA",
    "ctr": "it is for Lumina",
    "rcfg": "it is for Lumina",
}
"""Options of sd-scripts that have no effect here, and why."""
KEYS = {
    "width": "w",
    "height": "h",
    "seed": "d",
    "sample_steps": "s",
    "scale": "l",
    "negative_prompt": "n",
    "flow_shift": "fs",
    "guidance_scale": "g",
    "sample_sampler": "ss",
    "controlnet_image": "cn",
    "image": "i",
    "additional_network_multiplier": "am",
    "cfg_trunc_ratio": "ctr",
    "renorm_cfg": "rcfg",
}
"""The keys of prompts in TOML and JSON, with the options they stand for."""
LARGEST = (1 << 63) - 1
"""The largest number of an option: a seed has 64 bits."""
UNRELATED = ("a red car in a street", "a bowl of fruit on a table")
"""Default prompts without concept or class."""
SHOWN = 60
"""Most characters of a wrong value in a message."""


@dataclass(frozen=True)
class SamplePrompt:
    """A prompt to draw; None means the run's setting."""

    text: str
    kind: str
    """"concept", "class" or "unrelated"."""
    base: str
    """The same prompt without any concept: what the pretrained model draws."""
    negative: str = NULL_PROMPT
    width: int | None = None
    height: int | None = None
    seed: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    shift: float | None = None
    passed_over: tuple[str, ...] = ()
    """A sentence for each option of its line that has no effect here."""


def parse(line: str, concepts: Sequence[Concept], where: str) -> SamplePrompt:
    """A line of a prompt file, or a prompt of the command line.

    Options are those of sd-scripts, in capital letters, too.

    Raises:
        ConfigError: unknown option, or a value that is NaN or infinite or out of range.
    """
    text, *pieces = re.split(r"\s--(?=[A-Za-z])", f" {line.strip()}")
    options: dict[str, int | float | str] = {}
    passed_over = []
    for piece in pieces:
        written, _, value = piece.partition(" ")
        name = written.lower()
        if name in PASSED_OVER:
            passed_over.append(f"{where}: --{name} is ignored: {PASSED_OVER[name]}.")
        else:
            options[name] = _value_of(written, value.strip(), where)
    text = text.strip()
    if PLACEHOLDER in text and len(concepts) != 1:
        raise ConfigError(
            f"{where}: {PLACEHOLDER} is unclear, because there are {len(concepts)} concepts.",
            "Write a trigger instead.",
        )
    text = text.replace(PLACEHOLDER, concepts[0].trigger) if concepts else text
    present = [concept for concept in concepts if triggers_in(text, concept.trigger)]
    base = text
    for concept in present:
        base = without_concept(base, concept)
    of_class = any(triggers_in(text, concept.class_word) for concept in concepts)

    def whole(name: str) -> int | None:
        found = options.get(name)
        return found if isinstance(found, int) else None

    def number(name: str) -> float | None:
        found = options.get(name)
        return found if isinstance(found, float) else None

    return SamplePrompt(
        text=text,
        kind="concept" if present else "class" if of_class else "unrelated",
        base=base,
        negative=str(options.get("n", NULL_PROMPT)),
        width=whole("w"),
        height=whole("h"),
        seed=whole("d"),
        steps=whole("s"),
        guidance_scale=number("l"),
        shift=number("fs"),
        passed_over=tuple(passed_over),
    )


def _value_of(written: str, value: str, where: str) -> int | float | str:
    """The value of an option of a prompt, --WRITTEN VALUE.

    Raises:
        ConfigError: see `parse`.
    """
    name = written.lower()
    if name not in OPTIONS:
        nearest = did_you_mean(f"--{name}", [f"--{one}" for one in (*OPTIONS, *PASSED_OVER)])
        raise ConfigError(
            f'{where}: "--{written}" is not an option of a prompt.',
            f"{nearest} Write a negative prompt after --n.",
        )
    kind = OPTIONS[name]
    if kind is str:
        return value
    try:
        found = kind(value) if len(value) <= SHOWN else math.nan
    except ValueError:
        found = math.nan
    if not -LARGEST <= found <= LARGEST:  # nor is NaN
        raise ConfigError(f"{where}: --{name} is {_shown(value)}, which is not {describe(kind)}.")
    if name == "fs" and found <= 0:
        raise ConfigError(f"{where}: --fs is {value}; a shift must be above 0.", "ComfyUI uses 3.")
    if name in ("s", "l", "w", "h") and found < 1:
        raise ConfigError(f"{where}: --{name} is {value}; it must be at least 1.")
    if name == "d" and found < 0:
        raise ConfigError(f"{where}: --d is {value}; a seed is 0 or more.")
    return found


def read_prompt_lines(path: str, setting_name: str) -> list[str]:
    """The prompts of a file as lines; see `placed_lines`."""
    return [line for line, _ in placed_lines(path, setting_name)]


def placed_lines(path: str, setting_name: str) -> list[tuple[str, str]]:
    """The lines of a prompt file, each with its place for messages, "p.txt, line 3".

    Empty ones and those that begin with # are ignored; "" is the empty prompt. A TOML or JSON file of sd-scripts
    gives its prompts as such lines.

    Raises:
        ConfigError: no such file, not text, without a prompt, or with a malformed one.
    """
    file = Path(expanded(path))
    if not file.is_file():
        what = (
            f"{file.absolute()} is a folder, not a file"
            if file.is_dir()
            else f"the file {file.absolute()} doesn't exist"
        )
        raise ConfigError(f"{setting_name}: {what}.", "Give a text file with one prompt per line.")
    if file.suffix.lower() in (".toml", ".json"):
        return _lines_of_tables(file, setting_name)
    numbered = enumerate(read_text(file, f"{setting_name}:").splitlines(), 1)
    stripped = [(line.strip(), f"{file}, line {number}") for number, line in numbered]
    lines = [("" if line == '""' else line, where) for line, where in stripped if line and not line.startswith("#")]
    if not lines:
        raise ConfigError(f"{setting_name}: {file} contains no prompt.", "Write one prompt per line.")
    return lines


def _lines_of_tables(file: Path, setting_name: str) -> list[tuple[str, str]]:
    """The prompts of a TOML or JSON file of sd-scripts as lines: [prompt] holds for each [[prompt.subset]]."""
    remedy = 'Write [[prompt.subset]] with prompt = "..." below it; in JSON, a list of objects with "prompt".'
    try:
        shared = TomlFile(file).tables.get("prompt", {})
    except ConfigError as error:
        raise ConfigError(f"{setting_name}: {error.what}", error.remedy) from error
    entries = shared.get("subset", []) if isinstance(shared, dict) else None
    if not isinstance(entries, list):
        wrong = "prompt" if entries is None else "prompt.subset"
        raise ConfigError(f"{setting_name}: in {file}, {wrong} is not {_SHAPES[wrong]}.", remedy)
    if not entries:
        raise ConfigError(f"{setting_name}: {file} contains no prompt.", remedy)
    shared = {key: value for key, value in shared.items() if key != "subset"}
    places = [f"{file}, prompt {number}" for number in range(1, len(entries) + 1)]
    lines = [
        (_line_of(entry, shared, f"{setting_name}: {place}"), place)
        for entry, place in zip(entries, places, strict=True)
    ]
    for line, place in lines:
        if HALF_OF_A_CHARACTER.search(line):
            raise ConfigError(f"{setting_name}: {place} contains half of a character.", "Write the character itself.")
    return lines


_SHAPES = {"prompt": "a table", "prompt.subset": "a list of tables"}


def _line_of(entry: Any, shared: dict[str, Any], where: str) -> str:
    """A prompt of a TOML or JSON file as a line.

    Args:
        entry: a table, or in JSON a line already. shared: what applies to the whole file.

    Raises:
        ConfigError: it is neither, or has an unknown key or a value of the wrong type.
    """
    if isinstance(entry, str):
        return entry
    if not isinstance(entry, dict):
        raise ConfigError(f"{where} is {_shown(entry)}, not a table.", 'Write prompt = "..." in it.')
    given = {key: value for key, value in {**shared, **entry}.items() if value is not None and key != "enum"}
    text, options = given.pop("prompt", None), []
    if not isinstance(text, str):
        what = "has no prompt" if text is None else f"has {_shown(text)} as prompt, which is not a string"
        raise ConfigError(f"{where} {what}.", 'Write prompt = "..." in it.')
    for key, value in given.items():
        if key not in KEYS:
            raise ConfigError(f'{where}: "{key}" is not a key of a prompt.', did_you_mean(key, ["prompt", *KEYS]))
        kind = OPTIONS.get(KEYS[key])
        if kind is not None and not conforms(value, kind) and not (kind is not str and isinstance(value, str)):
            raise ConfigError(f"{where}: {key} is {_shown(value)}; it must be {describe(kind)}.")
        options.append(f"--{KEYS[key]} {value}")
    return " ".join([text, *options])


def _shown(value: Any) -> str:
    """A value for a message."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def read_samples(path: str, concepts: Sequence[Concept], size_of: Callable[[int, int], Any]) -> list[SamplePrompt]:
    """The prompts of a file, checked so that they can be drawn.

    Args:
        size_of: raises where the model can't draw a width and height.

    Raises:
        ConfigError: no such file, no prompt in it, or a mistake in one.
        ModelError: the model can't draw a size.
    """
    prompts = []
    for line, place in placed_lines(path, "sample_prompts"):
        prompt = parse(line, concepts, f"sample_prompts: {place}")
        sides = [side for side in (prompt.width, prompt.height) if side is not None]
        if sides:
            try:
                size_of(prompt.width or sides[0], prompt.height or sides[0])
            except ModelError as error:
                raise ModelError(f"sample_prompts: {place}: {error.what}", error.remedy) from error
        prompts.append(prompt)
    return prompts


def default_prompts(concepts: Sequence[Concept], captions: Sequence[PromptTriple]) -> list[SamplePrompt]:
    """The default prompts: each concept's first caption with and without it, the concept alone, and unrelated ones."""
    texts = [text for triple in captions for text in (triple.complete, triple.target, triple.base)]
    return [parse(text, concepts, "captions") for text in dict.fromkeys([*texts, *UNRELATED])]
