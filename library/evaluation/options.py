"""What several commands of purecc_evaluate.py ask for in the same words."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from library.config.dataset import PLACEHOLDER, Concept, DatasetConfig
from library.config.files import TomlFile, config_file_of, read_settings, settings_given
from library.config.settings import Settings
from library.data.folder import instead_of_pictures
from library.data.images import open_image
from library.errors import ConfigError
from library.evaluation.prompts import EvaluationPrompt, default_list, read_lists
from library.files.picture_files import pictures_in

MOST_SEEDS = 100


def settings_in(given: argparse.Namespace) -> tuple[TomlFile | None, Settings]:
    """The config file among the options, if there is one, and the settings of both."""
    file = config_file_of(given)
    return file, read_settings(file, settings_given(given))


def only_concept(concepts: Sequence[Concept], what: str) -> Concept:
    """The one concept of a config.

    Raises:
        ConfigError: there are several.
    """
    if len(concepts) != 1:
        raise ConfigError(
            f"{what} needs exactly one concept; the config has {len(concepts)}.",
            "Use a config with one concept, or remove the dataset from it and give --trigger and --class_word.",
        )
    return concepts[0]


def add_weights_to(parser: argparse.ArgumentParser) -> None:
    """--weights_dir and --allow_download."""
    parser.add_argument(
        "--weights_dir", metavar="DIR", default="scorers", help="Folder of the scorers' weights. Default: scorers."
    )
    parser.add_argument(
        "--allow_download",
        action="store_true",
        help="Download missing weights from huggingface.co, if it has them as safetensors. Default: never.",
    )


def reference_files(given: str | None, config: DatasetConfig | None, concept: Concept) -> list[Path]:
    """Pictures of the concept itself.

    Args:
        given: a folder. None: the config's; none, if there is no config.

    Raises:
        ConfigError: no such folder, or no picture in it.
    """
    if given:
        folders = [Path(given).expanduser()]
    elif config:
        subsets = [subset for dataset in config.datasets for subset in dataset.subsets if not subset.is_reg]
        mine = [subset for subset in subsets if config.concept_of(subset).trigger == concept.trigger]
        folders = [Path(subset.image_dir).expanduser() for subset in mine]
    else:
        return []
    missing = [folder for folder in folders if not folder.is_dir()]
    if missing:
        raise ConfigError(f"--references: the folder {missing[0].absolute()} doesn't exist.")
    files = [file for folder in folders for file in pictures_in(folder)]
    if not files:
        what, remedy = instead_of_pictures(folders[0]) if folders else ("", None)
        raise ConfigError(f"--references: {folders[0] if folders else given} contains no image.{what}", remedy)
    for file in files:
        open_image(file)
    return files


def add_prompts_to(parser: argparse.ArgumentParser) -> None:
    """--prompts, --preservation and --seeds."""
    parser.add_argument(
        "--prompts",
        nargs="+",
        metavar="LIST",
        help=f"Prompts with {PLACEHOLDER}: a file with one per line, or dreambench-live, dreambench-object, style, "
        "pocket. Default: chosen by the class word.",
    )
    parser.add_argument(
        "--preservation",
        nargs="+",
        metavar="LIST",
        help="Prompts without the concept, which must stay the same: a file, preservation, pocket-preservation, or "
        "none. Default: preservation.",
    )
    parser.add_argument("--seeds", default="0-1", help="Seeds, such as 0-3 or 0,7. Default: 0-1.")


def add_concept_to(parser: argparse.ArgumentParser) -> None:
    """--class_word, --trigger and --kind, for who has no concept file."""
    parser.add_argument("--class_word", help="What the subject is one of, such as dog.")
    parser.add_argument("--trigger", default="ohwx", help="The concept's trigger word. Default: ohwx.")
    parser.add_argument(
        "--kind", choices=("subject", "style"), default="subject", help="A subject or a style. Default: subject."
    )


def concept_of(given: argparse.Namespace) -> Concept:
    """The concept that the options describe.

    Raises:
        ConfigError: a subject without its class word.
    """
    return Concept(name="concept", trigger=given.trigger, class_word=given.class_word or "", kind=given.kind)


def prompts_of(given: argparse.Namespace, concept: Concept) -> list[EvaluationPrompt]:
    """The prompts that the options name."""
    preservation = given.preservation or ["preservation"]
    with_concept = given.prompts or [default_list(concept)]
    return read_lists(concept, with_concept, [] if preservation == ["none"] else preservation)


def seeds_of(text: str) -> list[int]:
    """Seeds from "0-3" or "0,7".

    Raises:
        ConfigError: neither of the two.
    """
    seeds: list[int] = []
    for piece in text.replace(" ", "").split(","):
        found = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", piece)
        last = int(found[2] or found[1]) if found else -1
        if not found or last < int(found[1]) or last - int(found[1]) >= MOST_SEEDS:
            raise ConfigError(f'--seeds: "{text}" is not a list of seeds.', "Write for example 0-3 or 0,7.")
        seeds += range(int(found[1]), last + 1)
    return list(dict.fromkeys(seeds))


def named_folders(words: Sequence[str], option: str) -> dict[str, str]:
    """NAME=DIR pairs.

    Raises:
        ConfigError: not such a pair, or a name twice.
    """
    pairs: dict[str, str] = {}
    for word in words:
        name, equals, folder = word.partition("=")
        if not equals or not folder or not re.fullmatch(r"[\w.+-]+", name):
            raise ConfigError(f'{option}: "{word}" is not NAME=FOLDER.', "For example DreamO=images/dreamo.")
        if name in pairs:
            raise ConfigError(f'{option}: the name "{name}" is given twice.')
        pairs[name] = folder
    return pairs
