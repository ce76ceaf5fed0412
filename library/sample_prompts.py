"""Prompts to draw, in the file format of sd-scripts: one a line, with options such as `--d 7 --w 512` behind it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from library.config.dataset import PLACEHOLDER, Concept
from library.config.files import TomlFile
from library.errors import ConfigError
from library.prompts import NULL_PROMPT, PromptTriple, triggers_in, without_concept

OPTIONS = {"w": int, "h": int, "d": int, "s": int, "l": float, "n": str, "g": float, "fs": float}
"""--w width, --h height, --d seed, --s steps, --l guidance scale, --n negative prompt, --fs shift of the noise levels.
--g, which sd-scripts has for distilled models, is read and changes nothing."""
KEYS = {
    "width": "w",
    "height": "h",
    "seed": "d",
    "sample_steps": "s",
    "scale": "l",
    "negative_prompt": "n",
    "flow_shift": "fs",
}
"""The keys of prompts in TOML and JSON, with the options they stand for."""
UNRELATED = ("a red car in a street", "a bowl of fruit on a table")
"""Prompts without concept or class, where the user names none."""


@dataclass(frozen=True)
class SamplePrompt:
    """A prompt to draw; what is None is as the run's settings say."""

    text: str
    kind: str
    """"concept", "class" or "unrelated"."""
    base: str
    """The same prompt without any concept: what the pretrained model is shown."""
    negative: str = NULL_PROMPT
    width: int | None = None
    height: int | None = None
    seed: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    shift: float | None = None


def parse(line: str, concepts: Sequence[Concept], where: str) -> SamplePrompt:
    """A line of a prompt file, or a prompt of the command line.

    Raises:
        ConfigError: unknown option, or a value that is no number.
    """
    text, *pieces = re.split(r"\s--(?=[A-Za-z])", f" {line.strip()}")
    options: dict[str, int | float | str] = {}
    for piece in pieces:
        name, _, value = piece.partition(" ")
        if name not in OPTIONS:
            known = ", ".join(f"--{option}" for option in OPTIONS)
            raise ConfigError(f'{where}: there is no option "--{name}" for a prompt.', f"Known are {known}.")
        try:
            options[name] = OPTIONS[name](value.strip())
        except ValueError as error:
            raise ConfigError(f'{where}: --{name} is "{value.strip()}", which is not a number.') from error
    if options.get("fs", 1.0) <= 0:
        raise ConfigError(f"{where}: --fs is {options['fs']:g}; a shift must be above 0.", "ComfyUI's is 3.")
    text = text.strip()
    if PLACEHOLDER in text and len(concepts) != 1:
        raise ConfigError(
            f"{where}: {PLACEHOLDER} could be any of {len(concepts)} concepts.", "Write the trigger itself."
        )
    text = text.replace(PLACEHOLDER, concepts[0].trigger) if concepts else text
    present = [concept for concept in concepts if triggers_in(text, concept.trigger)]
    base = text
    for concept in present:
        base = without_concept(base, concept)
    of_class = any(triggers_in(text, concept.class_word) for concept in concepts)
    return SamplePrompt(
        text=text,
        kind="concept" if present else "class" if of_class else "unrelated",
        base=base,
        negative=str(options.get("n", NULL_PROMPT)),
        width=options.get("w"),
        height=options.get("h"),
        seed=options.get("d"),
        steps=options.get("s"),
        guidance_scale=options.get("l"),
        shift=options.get("fs"),
    )


def read_prompt_lines(path: str, setting_name: str) -> list[str]:
    """The lines of a prompt file; empty ones and those that begin with # are passed over. "" is the empty prompt.

    Raises:
        ConfigError: no such file, or no prompt in it.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise ConfigError(f"{setting_name}: there is no file {file.absolute()}.")
    if file.suffix.lower() in (".toml", ".json"):
        return _lines_of_tables(TomlFile(file).tables, file, setting_name)
    lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    lines = ["" if line == '""' else line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise ConfigError(f"{setting_name}: {file} holds no prompt.", "Write one a line.")
    return lines


def _lines_of_tables(tables: dict, file: Path, setting_name: str) -> list[str]:
    """The prompts of a TOML or JSON file of sd-scripts as lines: [prompt] holds for each [[prompt.subset]]."""
    shared, lines = tables.get("prompt", {}), []
    for entry in shared.get("subset", []):
        values = {**{key: value for key, value in shared.items() if key != "subset"}, **entry}
        unknown = sorted(set(values) - {*KEYS, "prompt", "guidance_scale", "enum"})
        if unknown or not isinstance(values.get("prompt"), str):
            what = f'there is no key "{unknown[0]}" for a prompt' if unknown else "a prompt lacks its text, prompt"
            raise ConfigError(f"{setting_name}: {file}: {what}.", f"Known are {', '.join(['prompt', *KEYS])}.")
        options = [f"--{option} {values[key]}" for key, option in KEYS.items() if key in values]
        lines.append(" ".join([values["prompt"], *options]))
    if not lines:
        raise ConfigError(f"{setting_name}: {file} holds no prompt.", "Write [[prompt.subset]] with prompt in it.")
    return lines


def read_samples(path: str, concepts: Sequence[Concept], size_of: Callable[[int, int], Any]) -> list[SamplePrompt]:
    """The prompts of a file, checked so far that they can be drawn.

    Args:
        size_of: raises where the model can't draw a width and height.

    Raises:
        ConfigError: no such file, no prompt in it, or a mistake in one.
    """
    prompts = [parse(line, concepts, path) for line in read_prompt_lines(path, "sample_prompts")]
    for prompt in prompts:
        if (prompt.steps is not None and prompt.steps < 1) or (prompt.guidance_scale or 1) < 1:
            raise ConfigError(f"{path}: --s and --l must be at least 1, in the prompt {prompt.text!r}.")
        sides = [side for side in (prompt.width, prompt.height) if side is not None]
        if any(side < 1 for side in sides):
            raise ConfigError(f"{path}: --w and --h must be at least 1, in the prompt {prompt.text!r}.")
        if sides:
            size_of(prompt.width or sides[0], prompt.height or sides[0])
    return prompts


def default_prompts(concepts: Sequence[Concept], captions: Sequence[PromptTriple]) -> list[SamplePrompt]:
    """Where the user names no prompts: each concept's first caption with and without it, alone, and unrelated ones."""
    texts = [text for triple in captions for text in (triple.complete, triple.target, triple.base)]
    return [parse(text, concepts, "captions") for text in dict.fromkeys([*texts, *UNRELATED])]
