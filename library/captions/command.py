"""The command purecc_caption.py: writes captions next to pictures, and reviews them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from library.captions.looking import Looking
from library.captions.record import Record
from library.captions.review import review
from library.captions.source import Source, captions_in, sources_of
from library.captions.viewer import open_viewer
from library.config.data_settings import DataSettings
from library.config.dataset import Concept, DatasetConfig, Kind
from library.config.dataset_file import read_dataset_config
from library.config.files import TomlFile, plain_parser
from library.errors import ConfigError
from library.preflight.finding import Finding, describe_findings


def run(words: list[str] | None = None) -> str:
    """Writes captions or reviews existing ones; returns a report of each."""
    parser = plain_parser(
        "Writes captions that describe everything except the concept. Your own texts are never overwritten.",
        "(FOLDER --trigger ohwx --class_word dog | --dataset_config FILE) [--review]",
    )
    parser.add_argument("folder", nargs="?", metavar="FOLDER", help="Folder with images of one concept.")
    parser.add_argument("--dataset_config", metavar="FILE", help="Read concepts and folders from this file instead.")
    parser.add_argument("--trigger", help="The concept's trigger word. Captions write [V] for it.")
    parser.add_argument("--class_word", help="What the subject is one of, such as dog. A style needs none.")
    parser.add_argument(
        "--kind", choices=["subject", "style"], default="subject", help="A subject or a style. Default: subject."
    )
    parser.add_argument(
        "--model",
        metavar="MODEL",
        help="Qwen3-VL: its folder, or its name on huggingface.co. Default: the largest of 8B, 4B and 2B that fits "
        "the GPU's free memory.",
    )
    parser.add_argument("--review", action="store_true", help="Only check the existing captions, without a model.")
    given = parser.parse_args(words)
    notices: list[str] = []
    config = _config_of(given.folder, given.dataset_config, given.trigger, given.class_word, given.kind, notices)
    said = [_captioned(concept, config, given.model, given.review) for concept in config.concepts]
    return "\n".join([*dict.fromkeys(notices), *said])


def _config_of(
    folder: str | None,
    dataset_config: str | None,
    trigger: str | None,
    class_word: str | None,
    kind: Kind,
    notices: list[str],
) -> DatasetConfig:
    """The concepts and their folders.

    Raises:
        ConfigError: both a folder and a file are given, or neither, or they can't be used.
    """
    if (folder is None) == (dataset_config is None):
        raise ConfigError("Command line: give either a folder of images or a --dataset_config.", "Use one of them.")
    if dataset_config is not None:
        if trigger or class_word:
            raise ConfigError(
                "Command line: with --dataset_config, trigger and class_word come from that file.", "Leave them."
            )
        return read_dataset_config(TomlFile(dataset_config), DataSettings(dataset_config=dataset_config), notices)
    if not trigger:
        raise ConfigError("Command line: --trigger is missing.", 'Choose a rare word, for example "--trigger ohwx".')
    concept = Concept(name="concept", trigger=trigger, class_word=class_word or "", kind=kind)
    of_concept = {name: value for name, value in vars(concept).items() if value is not None}
    tables = {"concepts": [of_concept], "datasets": [{"subsets": [{"image_dir": folder}]}]}
    return read_dataset_config(TomlFile.of_tables(Path(str(folder)), tables), DataSettings(), notices)


@dataclass
class _Told:
    """The report of each picture, and what is wrong."""

    lines: list[str]
    found: list[Finding]


def _captioned(concept: Concept, config: DatasetConfig, model: str | None, only_review: bool) -> str:
    """Writes a concept's captions if asked to, and reviews all of them."""
    sources = sources_of(concept, config)
    records = {source.folder: Record(source.folder) for source in sources}
    told = _Told([f"{concept.name}: {len(sources)} images"], [])
    looking = Looking(concept, records, model)
    if not only_review:
        _write(sources, looking, told)
    captions, problems = captions_in(sources, concept, looking.known)
    looks = looking.known_looks()
    told.found += [*problems, *review(captions, concept, looks)]
    return "\n".join([*told.lines, describe_findings(told.found)])


def _write(sources: Sequence[Source], looking: Looking, told: _Told) -> None:
    """Writes the captions that may be written."""
    ours = [source for source in sources if looking.records[source.folder].is_ours(source.file)]
    kept = [source for source in sources if source not in ours]
    if kept:
        told.lines.append(f"  kept, because you wrote them: {', '.join(source.file.name for source in kept)}")
    if not ours:
        return
    broken = looking.look_at(sources, lambda: open_viewer(looking.model))
    written: set[Path] = set()
    for source in ours:
        composed = looking.composed(source)
        if composed is None or source.file in written:
            continue
        written.add(source.file)
        looking.records[source.folder].write(source.file, composed.text)
        told.lines.append(f"  {source.file.name}: {composed.text}")
        if composed.too_long:
            told.lines.append(f"    left out, because it would be too long: {', '.join(composed.too_long)}")
        if composed.of_the_concept:
            told.lines.append(
                f"    left out, because it describes the concept itself: {', '.join(composed.of_the_concept)}"
            )
    told.found += [
        Finding(
            f"{name}: the model's answer can't be used: {why}.", "Write this caption yourself, or try another --model."
        )
        for name, why in broken.items()
    ]
