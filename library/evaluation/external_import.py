"""The command `import`: gives pictures made elsewhere the names that `evaluate` expects."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from library.config.files import plain_parser
from library.data.images import open_image
from library.errors import ConfigError, DataError, PureCCError, all_of
from library.evaluation.external import PROMPTS_FILE, Key, file_name, read_csv, read_prompts_csv
from library.files.atomic import write_text, written
from library.files.picture_files import pictures_in
from library.files.text_file import read_text

UNO_NAME = re.compile(r"(\d{1,9})_(\d{1,9})")
SEED = re.compile(r"\d{1,18}")


def run(words: list[str]) -> str:
    """Copies the pictures under their new names; returns what became of them."""
    parser = plain_parser(
        "Renames images made elsewhere, so that evaluate can read them.", "import --from DIR --to DIR [--as uno]"
    )
    parser.add_argument("--from", dest="source", metavar="DIR", required=True, help="Folder of the images.")
    parser.add_argument(
        "--to", metavar="DIR", required=True, help=f"Folder with {PROMPTS_FILE}. The images are copied there."
    )
    parser.add_argument(
        "--as",
        dest="how",
        choices=("uno", "order", "table"),
        default="uno",
        help="uno: 3_1.png is prompt 3, repeat 1, checked against the JSON next to it. order: sorted by name, each "
        "prompt with all its seeds. table: as --table says. Default: uno.",
    )
    parser.add_argument("--table", metavar="FILE", help="CSV with the columns file, id and seed, for --as table.")
    given = parser.parse_args(words)
    source, target = Path(given.source).expanduser(), Path(given.to).expanduser()
    if not source.is_dir():
        raise ConfigError(f"--from: the folder {source.absolute()} doesn't exist.")
    rows = read_prompts_csv(target / PROMPTS_FILE)
    keys = [(row["id"], int(row["seed"])) for row in rows]
    texts = {row["id"]: row["prompt"] for row in rows}
    pictures = sorted(pictures_in(source), key=_natural)
    if given.how == "uno":
        found = _of_uno(pictures, keys, texts)
    elif given.how == "order":
        found = _in_order(pictures, keys, source)
    else:
        found = _of_table(given.table, source, keys)
    for file in found.values():
        open_image(file)
    for (prompt_id, seed), file in found.items():
        with written(target / file_name(prompt_id, seed, file.suffix.lower())) as temporary:
            shutil.copyfile(file, temporary)
    write_text(
        target / "import.json", json.dumps({file_name(*key): file.name for key, file in found.items()}, indent=1)
    )
    left = [key for key in keys if key not in found]
    lacking = f" {len(left)} are missing, such as {file_name(*left[0])}." if left else ""
    return f"{len(found)} of {len(keys)} images are now in {target}.{lacking}"


def _of_uno(pictures: Sequence[Path], keys: Sequence[Key], texts: dict[str, str]) -> dict[Key, Path]:
    """UNO's `{item}_{repeat}.png`; the prompt in the JSON beside each must be the item's."""
    ids, seeds = list(dict.fromkeys(key[0] for key in keys)), list(dict.fromkeys(key[1] for key in keys))
    found: dict[Key, Path] = {}
    problems: list[PureCCError] = []
    for file in pictures:
        name = UNO_NAME.fullmatch(file.stem)
        if not name or int(name[1]) >= len(ids) or int(name[2]) >= len(seeds):
            problems.append(
                DataError(
                    f"{file} is not an image of this list, which has {len(ids)} prompts and {len(seeds)} repeats."
                )
            )
            continue
        key = (ids[int(name[1])], seeds[int(name[2])])
        beside = file.with_suffix(".json")
        said = _prompt_in(beside) if beside.is_file() else None
        if said is not None and said != texts[key[0]]:
            problems.append(DataError(f'{beside} says "{said}"; prompt {name[1]} of the list is "{texts[key[0]]}".'))
        found[key] = file
    if problems:
        raise all_of(problems)
    return found


def _prompt_in(file: Path) -> str | None:
    try:
        return json.loads(read_text(file, "The file", DataError)).get("prompt")
    except (ValueError, AttributeError) as error:
        raise DataError(f"{file} is not a JSON file that UNO wrote: {error}.") from error


def _in_order(pictures: Sequence[Path], keys: Sequence[Key], source: Path) -> dict[Key, Path]:
    if len(pictures) != len(keys):
        raise DataError(
            f"{source} contains {len(pictures)} images, but the list has {len(keys)}, so their order can't be used.",
            "Use --as table with a CSV that lists each image.",
        )
    return dict(zip(keys, pictures, strict=True))


def _of_table(table: str | None, source: Path, keys: Sequence[Key]) -> dict[Key, Path]:
    if not table or not Path(table).expanduser().is_file():
        raise ConfigError("--as table needs --table FILE, a CSV with the columns file, id and seed.")
    file = Path(table).expanduser()
    rows = read_csv(file)
    found: dict[Key, Path] = {}
    problems: list[PureCCError] = []
    for number, row in enumerate(rows, 2):
        where = f"{table}, line {number}"
        seed = (row.get("seed") or "").strip()
        key = (row.get("id") or "", int(seed) if SEED.fullmatch(seed) else -1)
        picture = source / Path(row.get("file") or "").name
        if key not in keys:
            problems.append(DataError(f'{where}: the list has no image "{key[0]}" with seed "{seed}".'))
        elif not picture.is_file():
            problems.append(DataError(f"{where}: the file {picture} doesn't exist."))
        else:
            found[key] = picture
    if problems:
        raise all_of(problems)
    return found


def _natural(path: Path) -> list[tuple[int, int | str]]:
    """Sorts 2.png before 10.png."""
    pieces = re.split(r"(\d+)", path.name)
    return [(0, int(piece)) if piece.isdecimal() else (1, piece) for piece in pieces]
