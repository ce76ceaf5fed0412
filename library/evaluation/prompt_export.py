"""The command `prompts`: a list of prompts for another program to draw."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from library.config.files import plain_parser
from library.errors import ConfigError
from library.evaluation.external import PROMPTS_FILE, prompts_csv
from library.evaluation.options import add_concept_to, add_prompts_to, concept_of, prompts_of, seeds_of
from library.evaluation.prompts import EvaluationPrompt
from library.files.atomic import write_text

FORMATS = ("csv", "uno", "text")


def run(words: list[str]) -> str:
    """Writes the list; returns what to do with it."""
    parser = plain_parser("Writes a list of prompts for another program to draw.", "prompts --class_word dog --out DIR")
    add_concept_to(parser)
    add_prompts_to(parser)
    parser.add_argument(
        "--to",
        choices=FORMATS,
        default="csv",
        help="Format: CSV, UNO's JSON, or text with one prompt per line. Default: csv.",
    )
    parser.add_argument(
        "--reference", nargs="+", metavar="FILE", default=[], help="Images of the concept, for UNO's JSON."
    )
    parser.add_argument("--out", metavar="DIR", required=True, help="Folder for the prompts, and later for the images.")
    given = parser.parse_args(words)
    prompts, seeds, folder = prompts_of(given, concept_of(given)), seeds_of(given.seeds), Path(given.out).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / PROMPTS_FILE, prompts_csv(prompts, seeds))
    said = [f"Saved {folder / PROMPTS_FILE}: {len(prompts)} prompts, {len(seeds)} seeds. Keep it with the images."]
    if given.to == "uno":
        references = [Path(file).expanduser() for file in given.reference]
        write_text(folder / "uno.json", uno_json(prompts, references, folder))
        said.append(
            f"Saved {folder / 'uno.json'}. Run UNO with --eval_json_path {folder / 'uno.json'} "
            f"--num_images_per_prompt {len(seeds)}, then run: purecc_evaluate.py import --from UNO-OUTPUT --to "
            f"{folder}"
        )
    if given.to == "text":
        write_text(folder / "prompts.txt", "".join(f"{prompt.base}\n" for prompt in prompts))
        said.append(f"Saved {folder / 'prompts.txt'}. Draw each line once per seed, in this order.")
    return "\n".join(said)


def uno_json(prompts: Sequence[EvaluationPrompt], references: Sequence[Path], folder: Path) -> str:
    """UNO's list for --eval_json_path: base texts, each with the same reference pictures.

    Raises:
        ConfigError: no reference picture, or one that is not there.
    """
    missing = [str(file) for file in references if not file.is_file()]
    if missing or not references:
        what = f"the file {', '.join(missing)} doesn't exist" if missing else "UNO needs an image of the concept"
        raise ConfigError(f"--reference: {what}.", "Give one image, as in UNO's paper.")
    paths = [str(file.resolve()) for file in references]
    return json.dumps([{"prompt": prompt.base, "image_paths": paths} for prompt in prompts], indent=1) + "\n"
