"""The command purecc_import.py: turns another trainer's settings into a TOML, and reports what was not carried over."""

from __future__ import annotations

from pathlib import Path

from library.config.dataset import PLACEHOLDER, Concept
from library.config.dataset_file import read_concepts_and_pictures
from library.config.files import TomlFile, plain_parser, read_settings, to_toml
from library.errors import ConfigError, PureCCError
from library.files.atomic import write_text
from library.importers import ai_toolkit, kohya_gui, onetrainer
from library.importers.imported import Imported
from library.importers.reading import read_data

LONGEST_LINE = 1000
"""Most characters of a line of the report."""


def run(words: list[str] | None = None) -> str:
    """Reads a file and writes the TOML; returns a report of every setting."""
    parser = plain_parser("Converts another trainer's settings to a TOML.", "FILE [--to FILE] [--trigger ohwx ...]")
    parser.add_argument("file", help="JSON of the kohya_ss GUI or OneTrainer, or YAML of ai-toolkit.")
    parser.add_argument("--to", metavar="FILE", help="TOML to write. Default: the file's name, ending in _purecc.toml.")
    parser.add_argument("--trigger", help="The concept's trigger word, if the file doesn't name it.")
    parser.add_argument("--class_word", help="What the subject is one of, such as dog.")
    parser.add_argument(
        "--kind", choices=["subject", "style"], default="subject", help="A subject or a style. Default: subject."
    )
    parser.add_argument("--overwrite", action="store_true", help="Replace an existing TOML.")
    given = parser.parse_args(words)
    source = Path(given.file).expanduser()
    target = Path(given.to).expanduser() if given.to else source.with_name(f"{source.stem}_purecc.toml")
    if target.exists() and not given.overwrite:
        raise ConfigError(f"{target} already exists.", "Choose another with --to, or give --overwrite.")
    found = import_file(source)
    missing = _complete(found, given.trigger, given.class_word, given.kind)
    if found.prompts:
        prompts = target.with_name(f"{target.stem}_prompts.txt")
        if prompts.exists() and not given.overwrite:
            raise ConfigError(f"{prompts} already exists.", "Choose another TOML with --to, or give --overwrite.")
        write_text(prompts, "\n".join(found.prompts) + "\n")
        found.settings["sample_prompts"] = str(prompts)
    write_text(target, as_text(found, source))
    return report(found, target, missing)


def import_file(path: Path) -> Imported:
    """The settings of another trainer's file.

    Raises:
        ConfigError: no such file, damaged, or from an unknown trainer.
    """
    if path.suffix.lower() == ".toml":
        raise ConfigError(
            f"{path} is a TOML file; those of sd-scripts need no import.",
            "Use it directly: purecc_train.py --config_file or --dataset_config.",
        )
    data = read_data(path)
    if isinstance(data, dict):
        if "job" in data and isinstance(data.get("config"), dict):
            return ai_toolkit.read(data)
        if "base_model_name" in data or {"training_method", "model_type"} <= data.keys():
            return onetrainer.read(data, path.parent)
        if kohya_gui.MARKS & data.keys():
            return kohya_gui.read(data)
    raise ConfigError(
        f"{path} is not a settings file of a known trainer.",
        "This reads the JSON of the kohya_ss GUI and of OneTrainer, and the YAML of ai-toolkit. Files of sd-scripts "
        "need no import: use --config_file and --dataset_config.",
    )


def _complete(found: Imported, trigger: str | None, class_word: str | None, kind: str) -> list[str]:
    """Adds to the concept what the user named; returns what is still missing."""
    own = {"trigger": trigger, "class_word": class_word}
    concept = found.concept | {key: value for key, value in own.items() if value}
    if kind == "style":
        concept |= {"kind": "style"}
    if not found.datasets:
        # Folder names give trigger and class word, if nothing else does.
        found.settings.update({name: value for name, value in concept.items() if name != "placeholder"})
        return []
    missing = [
        key for key in ("trigger", "class_word") if key not in concept and not (key != "trigger" and kind == "style")
    ]
    found.concept = {"name": str(found.settings.get("output_name", "concept")).replace(" ", "_"), **concept}
    try:
        if not missing:
            Concept(**found.concept)
    except ConfigError:
        found.concept["name"] = "concept"
    return missing


def as_text(found: Imported, source: Path) -> str:
    """The TOML, headed by what was not carried over."""
    lines = [f"From {source.name} of {found.trainer}."]
    if found.assumed:
        lines.append(_assumed(found))
    if found.left_out:
        lines += ["Not carried over:", *(f"  {name}: {why}" for name, why in found.left_out.items())]
    return "\n".join([*(f"# {_printable(line)}" for line in lines), to_toml(found.tables())])


def _assumed(found: Imported) -> str:
    said = ", ".join(f"{name} {value}" for name, value in found.assumed.items())
    return f"Not in the file, so the defaults of {found.trainer} are used: {said}."


def _printable(line: str) -> str:
    """A line of the report or of a comment, in which TOML allows no control characters."""
    line = "".join(letter if letter.isprintable() else " " for letter in line)
    return line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE - 4]} ..."


def report(found: Imported, target: Path, missing: list[str]) -> str:
    """What was carried over, what was not, and whether the TOML reads as it is."""
    carried = len(found.settings)
    lines = [f"{target}: {carried} settings of {found.trainer}, {len(found.datasets)} datasets.", *found.notices]
    if found.assumed:
        lines.append(_assumed(found))
    if found.left_out:
        lines += ["Not carried over:", *(f"  {name}: {why}" for name, why in found.left_out.items())]
    lines = [_printable(line) for line in lines]
    wanted = _wanted(found, missing)
    if wanted:
        return "\n".join([*lines, *wanted])
    try:
        file = TomlFile(target)
        read_concepts_and_pictures(file, read_settings(file))
        lines.append(
            f"The file is valid. Captions can contain {PLACEHOLDER} for the trigger, or the trigger itself. Check it "
            "with"
        )
        lines.append(f"  python purecc_train.py --config_file {target} --dry_run")
    except PureCCError as error:
        lines.append(f"Still to fix:\n{error}")
    return "\n".join(lines)


def _wanted(found: Imported, missing: list[str]) -> list[str]:
    """What a run needs and the file does not say, one sentence each.

    Args:
        missing: of the concept.
    """
    lines = []
    if "pretrained_model_name_or_path" not in found.settings:
        lines.append(
            "Add the model: pretrained_model_name_or_path in [model], a checkpoint of Stable Diffusion 3.5 Medium."
        )
    if missing:
        lines.append(f"Add {' and '.join(missing)} in [[concepts]], or import again with --{' --'.join(missing)} ...")
    subsets = [subset for dataset in found.datasets for subset in dataset["subsets"]]
    if found.datasets and not any(subset["image_dir"] for subset in subsets):
        lines.append("Add the images: [[datasets.subsets]] with image_dir.")
    elif not found.datasets and not {"train_data_dir", "dataset_config"} & found.settings.keys():
        lines.append("Add the images: train_data_dir or dataset_config in [data].")
    return lines
