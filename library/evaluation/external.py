"""Pictures made elsewhere: a folder of `<prompt id>__<seed>.png` with the list they were made from, `prompts.csv`."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from library.data.images import image_size
from library.errors import DataError, PureCCError, all_of
from library.evaluation.prompts import EvaluationPrompt
from library.files.picture_files import pictures_in
from library.files.text_file import read_text

PROMPTS_FILE = "prompts.csv"
COLUMNS = ("id", "seed", "file", "prompt", "with_concept", "group")
"""Of prompts.csv; `prompt` is the text for a program that is given the concept as a picture, so it has no [V]."""
LISTED = 8
"""Names that an error lists before it says how many more there are."""
LARGEST_LIST = 64 << 20
"""Bytes of a list of prompts, which may be long."""
FILE_NAME = re.compile(r"(?P<id>[A-Za-z0-9][A-Za-z0-9-]*)__(?P<seed>\d{1,18})")

Key = tuple[str, int]
"""Prompt id and seed of a picture."""


@dataclass(frozen=True)
class ExternalArm:
    """A folder that was checked.

    Attributes:
        files: of the prompts and seeds that were asked for, as far as they are there.
        size: of all its pictures, width and height.
        missing: pictures that are not there, where the user agreed to that.
    """

    name: str
    files: dict[Key, Path]
    size: tuple[int, int]
    missing: tuple[Key, ...] = ()


def file_name(prompt_id: str, seed: int, ending: str = ".png") -> str:
    """What a picture is called."""
    return f"{prompt_id}__{seed}{ending}"


def prompts_csv(prompts: Sequence[EvaluationPrompt], seeds: Sequence[int]) -> str:
    """The list that goes with a folder, one line a picture."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for prompt in prompts:
        for seed in seeds:
            name = file_name(prompt.id, seed)
            writer.writerow([prompt.id, seed, name, prompt.base, prompt.text, prompt.group])
    return text.getvalue()


def read_csv(file: Path) -> list[dict[str, str]]:
    """The lines of a CSV file, by the names in its first line.

    Raises:
        DataError: it is not such a file.
    """
    try:
        return list(csv.DictReader(io.StringIO(read_text(file, "The list", DataError, LARGEST_LIST))))
    except csv.Error as error:
        raise DataError(f"The list {file} can't be read: {error}.") from error


def read_prompts_csv(file: Path) -> list[dict[str, str]]:
    """Its lines.

    Raises:
        DataError: it is not there, or not such a list.
    """
    if not file.is_file():
        raise DataError(
            f"{file.parent} contains no {PROMPTS_FILE}, so the prompts of its images are unknown.",
            "Copy the list there that `purecc_evaluate.py prompts --to csv` wrote.",
        )
    rows = read_csv(file)
    wanted = {"id", "seed", "prompt"}
    if not rows or not wanted <= set(rows[0]):
        raise DataError(f"{file} must start with a line with {', '.join(COLUMNS)}, followed by at least one row.")
    for number, row in enumerate(rows, 2):
        if not FILE_NAME.fullmatch(f"{row['id']}__{(row['seed'] or '').strip()}"):
            raise DataError(
                f'{file}, line {number}: id "{row["id"]}" and seed "{row["seed"]}" don\'t identify an image.'
            )
    return rows


def read_arm(
    name: str, folder: Path, prompts: Sequence[EvaluationPrompt], seeds: Sequence[int], allow_missing: bool = False
) -> ExternalArm:
    """Checks a folder against what is to be measured.

    Args:
        allow_missing: continue with the pictures that are there.

    Raises:
        DataError: everything that is wrong with it, in one go.
    """
    if not folder.is_dir():
        raise DataError(f"--external {name}: the folder {folder.absolute()} doesn't exist.")
    problems: list[PureCCError] = []
    _check_prompts(name, folder, prompts, problems)
    wanted = {(prompt.id, seed) for prompt in prompts for seed in seeds}
    files: dict[Key, Path] = {}
    extra = []
    for file in pictures_in(folder):
        found = FILE_NAME.fullmatch(file.stem)
        key = (found["id"], int(found["seed"])) if found else None
        if key not in wanted or key in files:
            extra.append(file.name)
        else:
            files[key] = file
    missing = sorted(wanted - set(files))
    if missing and (not allow_missing or not files):
        names = _listed([file_name(*key) for key in missing])
        problems.append(
            DataError(
                f"--external {name}: {len(missing)} of {len(wanted)} images are missing in {folder}: {names}.",
                "Make them, or continue without them with --allow_missing.",
            )
        )
    if extra:
        problems.append(
            DataError(
                f"--external {name}: {folder} contains {len(extra)} images that aren't in the list: {_listed(extra)}.",
                "Names are PROMPT-ID__SEED.png; `purecc_evaluate.py import` renames other images.",
            )
        )
    size = _size_of(name, files, problems)
    if problems:
        raise all_of(problems)
    return ExternalArm(name, files, size, tuple(missing))


def _check_prompts(name: str, folder: Path, prompts: Sequence[EvaluationPrompt], problems: list[PureCCError]) -> None:
    try:
        rows = read_prompts_csv(folder / PROMPTS_FILE)
    except DataError as error:
        problems.append(error)
        return
    said = {row["id"]: row["prompt"].strip() for row in rows}
    other = [prompt for prompt in prompts if prompt.id in said and said[prompt.id] not in (prompt.base, prompt.text)]
    for prompt in other[:LISTED]:
        problems.append(
            DataError(
                f'--external {name}: {prompt.id} was made from "{said[prompt.id]}", but the prompt to measure is '
                f'"{prompt.base}".',
                "Use the same prompt lists as for the export.",
            )
        )
    unknown = [prompt.id for prompt in prompts if prompt.id not in said]
    if unknown:
        problems.append(
            DataError(
                f"--external {name}: {PROMPTS_FILE} lacks {len(unknown)} of the prompts to measure: "
                f"{_listed(unknown)}.",
                "Use the same --prompts and --preservation, or export the list again.",
            )
        )


def _size_of(name: str, files: dict[Key, Path], problems: list[PureCCError]) -> tuple[int, int]:
    sizes: dict[tuple[int, int], list[str]] = {}
    for file in files.values():
        try:
            sizes.setdefault(image_size(file), []).append(file.name)
        except DataError as error:
            problems.append(DataError(f"--external {name}: {error.what}", error.remedy))
    if len(sizes) > 1:
        said = "; ".join(f"{w} x {h}: {_listed(some)}" for (w, h), some in sorted(sizes.items()))
        problems.append(
            DataError(f"--external {name}: its images have different sizes. {said}.", "Make all in the same size.")
        )
    return max(sizes, key=lambda size: len(sizes[size]), default=(0, 0))


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
