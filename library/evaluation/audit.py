"""The command `audit`: what any LoRA changes that it should not."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from library.adapters.files import ConceptFile, concept_file_for
from library.config.dataset import DatasetConfig
from library.config.dataset_file import as_size, read_concepts_and_pictures, read_dataset_config
from library.config.files import (
    TomlFile,
    add_settings_to,
    command_line_parser,
)
from library.config.settings import Settings
from library.data.latents import Latents
from library.data.pictures import Picture, find_pictures
from library.drawing.drawn import draw_latents
from library.drawing.sampling import initial_noise
from library.dual_branch_scheduler import PRETRAINED_BRANCH, Branch
from library.errors import ConfigError
from library.evaluation.audit_files import Audit, Shown, write_audit
from library.evaluation.card import Card, card_of
from library.evaluation.drift import Probe, Shift, reference_gain, rounding_floor, shifts
from library.evaluation.options import only_concept, settings_in
from library.evaluation.probes import read_probes
from library.evaluation.student import Students, concept_of_lora, loras_in, read_layers
from library.files.cache_limit import CacheUse
from library.files.fingerprint import of_file
from library.parts.parts import STUDENT_ADAPTER, Attached, Opened, build_parts
from library.prepare.replay import pictures_at_once
from library.prompts import NULL_PROMPT
from library.report.progress import bar_over
from library.terminal import say


@dataclass(frozen=True)
class References:
    """The reference pictures: latents and, for each, the texts with and without the concept."""

    latents: list[Tensor] = field(default_factory=list)
    complete: list[str] = field(default_factory=list)
    base: list[str] = field(default_factory=list)


class Auditor:
    """Measures students on the same prompts, noisy pictures and references.

    Args:
        parts: attached, all texts prepared.
        latents: of the pretrained model's picture of each probe, (C, h, w) each.
    """

    def __init__(self, parts: Attached, probes: Sequence[Probe], latents: Sequence[Tensor], references: References):
        self.parts = parts
        self.probes = list(probes)
        self.latents = list(latents)
        self.references = references

    def shifts(self, branch: Branch) -> list[Shift]:
        """How the velocity moved on each prompt."""
        return shifts(self.parts, branch, self.probes, self.latents, bar_over("drift"))

    def card(self, name: str, branch: Branch, found: list[Shift], pictures: dict[str, float]) -> Card:
        """The card of a student.

        Args:
            found: its shifts.
            pictures: how much its pictures changed, by kind.
        """
        known = self.references
        with_concept = without = None
        if known.latents:
            with_concept = reference_gain(self.parts, branch, known.latents, known.complete, known.base)
            without = reference_gain(self.parts, branch, known.latents, known.base, known.base)
        return card_of(name, self.probes, found, with_concept, without, pictures)

    def floors(self) -> dict[str, float]:
        """The controls, which must be about 0: the model's own rounding, and a LoRA at strength 0."""
        count = min(4, len(self.probes))
        texts, latents = [probe.base for probe in self.probes[:count]], torch.stack(self.latents[:count])
        self.parts.network.set_strength(STUDENT_ADAPTER, 0.0)
        off = Branch({}, {}, default=STUDENT_ADAPTER)
        still = shifts(self.parts, off, self.probes[:count], self.latents[:count])
        self.parts.network.set_strength(STUDENT_ADAPTER, 1.0)
        return {
            "rounding": rounding_floor(self.parts, texts, latents),
            "strength 0": max(max(shift.drift) for shift in still),
        }


def draw(
    parts: Attached,
    branch: Branch,
    texts: Sequence[str],
    seeds: Sequence[int],
    size: tuple[int, int],
    name: str,
    steps: int | None = None,
) -> list[Tensor]:
    """Latents (C, h, w) of pictures of these texts, each from its seed.

    Args:
        name: what the bar says.
        steps: of sampling. Default: as for the sheets.
    """
    shape, samples, drawn = parts.model.latent_shape(*size), parts.settings.samples, list[Tensor]()
    at_once = pictures_at_once(shape)
    for begin in bar_over(name)(range(0, len(texts), at_once)):
        some = texts[begin : begin + at_once]
        noise = torch.stack([initial_noise(shape, seed) for seed in seeds[begin : begin + at_once]])
        drawn += draw_latents(parts, branch, some, noise, steps or samples.sample_steps, samples.guidance_scale)
    return drawn


def run(words: list[str]) -> str:
    """Audits the named LoRAs; returns a report."""
    parser = command_line_parser("Grades what a LoRA changes that it shouldn't. Works with LoRAs of any trainer.")
    parser.add_argument("loras", nargs="*", metavar="LORA", help="LoRA files in any layout, or the folder of a run.")
    parser.add_argument(
        "--concept",
        metavar="FILE",
        help='Concept vectors. Default: those next to the LoRA, if it needs them. "none" leaves them out.',
    )
    parser.add_argument(
        "--pictures", metavar="DIR", help="Folder of the training images, with captions. Default: those of the config."
    )
    parser.add_argument("--lora_scale", type=float, default=1.0, help="Strength of the LoRA. Default: 1.")
    parser.add_argument("--out", metavar="DIR", help="Folder for the results. Default: OUTPUT_DIR/audit.")
    add_settings_to(parser)
    given = parser.parse_args(words)
    if not given.loras:
        raise ConfigError("Command line: give a LoRA file, or a run's folder.", "See purecc_evaluate.py audit --help.")
    loras = loras_in(given.loras)
    file, settings = settings_in(given)
    concept_files = {lora: concept_file_for(lora, given.concept) for lora in loras}
    config = _config_of(given, file, settings, loras[0], concept_files[loras[0]])
    with CacheUse(settings.saving.cache_dir, settings.saving.max_cache_bytes):
        return _audit(given, settings, config, concept_files)


def _config_of(
    given: Namespace, file: TomlFile | None, settings: Settings, lora: Path, concept_file: ConceptFile | None
) -> DatasetConfig:
    """The concept, and the reference pictures if any are known."""
    has_data = settings.data.dataset_config or settings.data.train_data_dir or (file and file.has_pictures)
    says_itself = settings.data.trigger and not settings.data.train_data_dir
    if has_data and not given.pictures and not says_itself:
        return read_concepts_and_pictures(file, settings)
    concept = concept_of_lora(lora, concept_file, settings)
    if not given.pictures:
        return DatasetConfig(concepts=[concept], datasets=[])
    tables = {"datasets": [{"subsets": [{"image_dir": given.pictures, "num_repeats": 1}]}]}
    tables["concepts"] = [{key: value for key, value in vars(concept).items() if value is not None}]
    return read_dataset_config(TomlFile.of_tables(Path(given.pictures), tables), settings.data)


def _audit(
    given: Namespace, settings: Settings, config: DatasetConfig, concept_files: dict[Path, ConceptFile | None]
) -> str:
    concept = only_concept(config.concepts, "An audit")
    opened = build_parts(settings, config.concepts)
    layers = {lora: read_layers(lora, opened.model) for lora in concept_files}
    seeds = [settings.optimizer.seed + number for number in range(settings.samples.sample_seeds)]
    probes = read_probes(settings.samples.audit_prompts, concept, seeds)
    size = config.datasets[0].resolution if config.datasets else as_size(settings.data.resolution, "resolution")
    opened.model.latent_shape(*size)
    shown = [one for some in reference_pictures(config, opened, settings) for one in some]
    texts = [text for probe in probes for text in probe.texts]
    texts += [text for one in shown for text in (one.prompts[0].complete, one.prompts[0].base)]
    opened.texts.prepare([NULL_PROMPT, *texts], bar_over("text"))
    references = references_of(opened, shown)
    students = Students(opened, layers)
    parts = students.parts
    for notice in parts.model.notices:
        say(notice)
    before = draw(parts, PRETRAINED_BRANCH, [p.base for p in probes], [p.seed for p in probes], size, "before")
    auditor, pixels = Auditor(parts, probes, before, references), _decoded(parts, before)
    audits = []
    for lora, concept_file in concept_files.items():
        branch = students.branch(lora, concept_file, given.lora_scale)
        found = auditor.shifts(branch)
        after = draw(parts, branch, [p.shown for p in probes], [p.seed for p in probes], size, f"with {lora.name}")
        pictures = Shown(pixels, _decoded(parts, after))
        card = auditor.card(lora.name, branch, found, pictures.changes(probes))
        facts = {"file": str(lora), "sha256": of_file(lora), "strength": given.lora_scale}
        facts["concept_file"] = None if concept_file is None else str(concept_file.path)
        audits.append(Audit(card, probes, found, pictures, facts))
    about = {
        "model": settings.model.pretrained_model_name_or_path,
        "model_fingerprint": parts.model.fingerprint(),
        "precision": settings.model.mixed_precision,
        "concept": {"trigger": concept.trigger, "class_word": concept.class_word, "kind": concept.kind},
        "size": list(size),
        "floors": auditor.floors(),
        "reference_pictures": len(references.latents),
        "left_out": [line for file in layers.values() for line in file.left_out],
    }
    folder = Path(given.out).expanduser() if given.out else settings.output_dir / "audit"
    return write_audit(folder, audits, about)


def reference_pictures(config: DatasetConfig, parts: Opened, settings: Settings) -> list[list[Picture]]:
    """The pictures to learn, by dataset; none if the config names none."""
    if not config.datasets:
        return []
    found = find_pictures(config, parts.model.size_multiple, settings.optimizer.seed, 1, 1)
    return [[one for one in some if not one.subset.is_reg] for some in found]


def references_of(parts: Opened, pictures: Sequence[Picture], latents: Latents | None = None) -> References:
    """Reference pictures, each once, by their first caption.

    Args:
        latents: where they are known already.
    """
    shown = list({one.path: replace(one, crops=one.crops[:1]) for one in pictures}.values())
    if latents is None:
        latents = Latents(parts.model, parts.cache)
        latents.prepare(shown, bar_over("reference pictures"))
        parts.model.release_vae()
    prompts = [one.prompts[0] for one in shown]
    means = [latents.mean(one) for one in shown]
    return References(means, [one.complete for one in prompts], [one.base for one in prompts])


def _decoded(parts: Opened, latents: Sequence[Tensor]) -> list[Tensor]:
    pixels = [parts.model.decode(one[None])[0] for one in latents]
    parts.model.release_vae()
    return pixels
