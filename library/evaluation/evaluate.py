"""The command `evaluate`: what LoRAs learned and broke, beside each other and beside pictures made elsewhere."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from library.adapters.files import ConceptFile, concept_file_for
from library.config.dataset import Concept
from library.config.dataset_file import as_size, read_concepts_and_pictures
from library.config.files import (
    add_settings_to,
    as_tables,
    command_line_parser,
)
from library.config.settings import Settings
from library.data.images import open_image
from library.dual_branch_scheduler import PRETRAINED_BRANCH, Branch
from library.errors import ConfigError, PureCCError
from library.evaluation.drift import Probe, shifts
from library.evaluation.external import ExternalArm, Key, read_arm
from library.evaluation.options import (
    add_prompts_to,
    add_weights_to,
    named_folders,
    prompts_of,
    reference_files,
    seeds_of,
    settings_in,
)
from library.evaluation.picture_measures import APART, PRETRAINED, ArmPictures, Measure, Measurer
from library.evaluation.pictures import OTHER_NOISE, PictureFolder, Wanted
from library.evaluation.prompts import EvaluationPrompt
from library.evaluation.results import Results
from library.evaluation.scorers.catalogue import ScorerEntry, check_all, entries_of
from library.evaluation.scorers.pixels import as_tensor
from library.evaluation.student import Students, concept_of_lora, read_layers
from library.files.cache_limit import CacheUse
from library.files.fingerprint import of_file
from library.parts.parts import Attached, build_parts
from library.prompts import NULL_PROMPT
from library.report.progress import bar_over
from library.terminal import say

FLOOR, OFF = APART, "strength 0"
CONTROLS = (PRETRAINED, FLOOR, OFF)
DRIFT = "||v(B) - v(A)|| / ||v(A)|| of the velocities at the same noisy images, mean over noise levels; no scorer"


def run(words: list[str]) -> str:
    """Measures; returns the report."""
    given = _parser().parse_args(words)
    if not given.lora:
        raise ConfigError("Command line: --lora is needed.", "See purecc_evaluate.py evaluate --help.")
    file, settings = settings_in(given)
    loras = [Path(word).expanduser() for word in given.lora]
    names = _names(loras)
    concept_files = {lora: concept_file_for(lora, given.concept) for lora in loras}
    config = None
    if settings.data.dataset_config or (file and "concepts" in file.tables):
        config = read_concepts_and_pictures(file, settings)
    if config and len(config.concepts) == 1:
        concept = config.concepts[0]
    else:
        concept = concept_of_lora(loras[0], concept_files[loras[0]], settings)
    prompts, seeds = prompts_of(given, concept), seeds_of(given.seeds)
    references = reference_files(given.references, config, concept)
    entries = entries_of(given.scorers or [], given.without or [], concept.kind)
    weights_dir = Path(given.weights_dir).expanduser()
    check_all(entries, weights_dir, given.allow_download and not settings.model.offline)
    external = _external(given, prompts, seeds)
    size = config.datasets[0].resolution if config else as_size(settings.data.resolution, "resolution")
    out = Path(given.out).expanduser() if given.out else settings.output_dir / "evaluation"

    evaluation = Evaluation(settings, concept, prompts, seeds, size, out)
    with CacheUse(settings.saving.cache_dir, settings.saving.max_cache_bytes):
        arms = evaluation.draw({name: (lora, concept_files[lora]) for name, lora in names.items()}, given.lora_scale)
    results = Results(
        out, evaluation.about(names, concept_files, given.lora_scale), prompts, [*arms, *external], CONTROLS
    )
    measurer = Measurer(prompts, results.arms, references, concept.kind)
    for measure, found in evaluation.drifts.items():
        for arm, values in found.items():
            measurer.values.put(measure, arm, values)
    return _measured(results, measurer, entries, weights_dir, evaluation.parts.model.device, bool(references))


def _parser() -> argparse.ArgumentParser:
    parser = command_line_parser("Measures what LoRAs learned and what they broke.")
    parser.add_argument(
        "--lora", nargs="+", metavar="FILE", help="LoRAs in any layout. The others are compared with the first."
    )
    parser.add_argument(
        "--concept",
        metavar="FILE",
        help='Concept vectors. Default: those next to each LoRA, if it needs them. "none" leaves them out.',
    )
    parser.add_argument("--lora_scale", type=float, default=1.0, help="Strength of the LoRAs. Default: 1.")
    add_prompts_to(parser)
    parser.add_argument(
        "--references", metavar="DIR", help="Folder of images of the concept. Default: those of the config."
    )
    parser.add_argument(
        "--scorers",
        nargs="+",
        metavar="NAME",
        help="Scorers to use: names from purecc_evaluate.py weights, pocket, or none.",
    )
    parser.add_argument("--without", nargs="+", metavar="NAME", help="Scorers to skip.")
    add_weights_to(parser)
    parser.add_argument("--external", nargs="+", default=[], metavar="NAME=DIR", help="Images made elsewhere.")
    parser.add_argument(
        "--external_base", nargs="+", default=[], metavar="NAME=DIR", help="Images of the base model of that program."
    )
    parser.add_argument("--allow_missing", action="store_true", help="Continue if some of these images are missing.")
    parser.add_argument("--out", metavar="DIR", help="Folder for the results. Default: OUTPUT_DIR/evaluation.")
    add_settings_to(parser)
    return parser


class Evaluation:
    """The pretrained model and LoRAs on it, drawing the same prompts from the same noise.

    Attributes:
        drifts: velocity drift of each arm, by measure.
    """

    def __init__(
        self,
        settings: Settings,
        concept: Concept,
        prompts: Sequence[EvaluationPrompt],
        seeds: Sequence[int],
        size: tuple[int, int],
        out: Path,
    ) -> None:
        self.settings = settings
        self.concept = concept
        self.prompts = prompts
        self.seeds = tuple(seeds)
        self.out = out
        self.parts = build_parts(settings, [concept])
        self.size = size
        self.drifts: dict[Measure, dict[str, dict[Key, float | None]]] = {}

    def draw(self, loras: dict[str, tuple[Path, ConceptFile | None]], strength: float) -> list[ArmPictures]:
        """Draws every arm, the controls first, and measures the velocity drift of each LoRA."""
        parts = self.parts
        layers = {lora: read_layers(lora, parts.model) for lora, _ in loras.values()}
        texts = [text for prompt in self.prompts for text in (prompt.text, prompt.base)]
        parts.texts.prepare([NULL_PROMPT, *texts], bar_over("text"))
        students = Students(parts, layers)
        for notice in parts.model.notices:
            say(notice)
        gallery = PictureFolder(students.parts, self.out / "pictures", self.size)
        base = self._arm(gallery, PRETRAINED, {}, lambda: PRETRAINED_BRANCH, None, base=True)
        other = self._arm(gallery, FLOOR, {}, lambda: PRETRAINED_BRANCH, PRETRAINED, base=True, shift=OTHER_NOISE)
        arms, first = [], next(iter(loras.values()))
        off = self._arm(
            gallery, OFF, self._key(*first, 0.0), lambda: students.branch(*first, 0.0), PRETRAINED, base=True
        )
        for name, (lora, concept_file) in loras.items():
            key = self._key(lora, concept_file, strength)
            branch = partial(students.branch, lora, concept_file, strength)
            arms.append(self._arm(gallery, name, key, branch, PRETRAINED))
            self._drift(students.parts, name, students.branch(lora, concept_file, strength), base)
        self._drift(students.parts, OFF, students.branch(*first, 0.0), base)
        parts.model.release_vae()
        return [base, other, off, *arms]

    def _key(self, lora: Path, concept_file: ConceptFile | None, strength: float) -> dict[str, Any]:
        concept = None if concept_file is None else of_file(concept_file.path)
        named = concept_file is not None and concept_file.named
        return {"lora": [of_file(lora), concept], "named": named, "strength": strength}

    def _arm(
        self,
        gallery: PictureFolder,
        name: str,
        key: dict[str, Any],
        branch: Callable[[], Branch],
        paired: str | None,
        base: bool = False,
        shift: int = 0,
    ) -> ArmPictures:
        made: list[Branch] = []

        def once() -> Branch:
            if not made:
                made.append(branch())
            return made[0]

        files: dict[Key, Path] = {}
        for prompt in bar_over(name)(self.prompts):
            files |= gallery.files(Wanted(name, prompt, self.seeds, key, base, shift), once)
        return ArmPictures(name, files, paired)

    def _drift(self, parts: Attached, name: str, branch: Branch, base: ArmPictures) -> None:
        for group in ("class", "unrelated"):
            prompts = [prompt for prompt in self.prompts if prompt.group == group]
            if not prompts:
                continue
            seed = self.seeds[0]
            probes = [Probe(group, prompt.base, None, None, seed) for prompt in prompts]
            pixels = [as_tensor(open_image(base.files[prompt.id, seed])) for prompt in prompts]
            latents = [parts.model.encode_image(one)[0] for one in pixels]
            found = shifts(parts, branch, probes, latents, bar_over("drift"))
            values: dict[Key, float | None] = {
                (p.id, seed): shift.mean_drift for p, shift in zip(prompts, found, strict=True)
            }
            measure = Measure(f"velocity drift, {group}", group, "down", DRIFT)
            self.drifts.setdefault(measure, {})[name] = values

    def about(
        self, names: dict[str, Path], concept_files: dict[Path, ConceptFile | None], strength: float
    ) -> dict[str, Any]:
        """What the results were made of."""
        model = self.parts.model
        return {
            "concept": {
                "trigger": self.concept.trigger,
                "class_word": self.concept.class_word,
                "kind": self.concept.kind,
            },
            "seeds": list(self.seeds),
            "noise": "drawn on the CPU from the seed and the base text",
            "size": list(self.size),
            "steps": self.settings.samples.sample_steps,
            "guidance_scale": self.settings.samples.guidance_scale,
            "lora_scale": strength,
            "model": {
                "name": as_tables(self.settings)["model"]["pretrained_model_name_or_path"],
                "fingerprint": model.fingerprint(),
            },
            "loras": {
                name: {
                    "file": str(lora),
                    "sha256": of_file(lora),
                    "concept_file_sha256": of_file(file.path) if (file := concept_files[lora]) else None,
                }
                for name, lora in names.items()
            },
            "versions": {"python": platform.python_version()}
            | {name: version(name) for name in ("torch", "diffusers", "transformers", "numpy", "pillow")},
        }


def _measured(
    results: Results,
    measurer: Measurer,
    entries: Sequence[ScorerEntry],
    weights_dir: Path,
    device: torch.device,
    has_references: bool,
) -> str:
    """One scorer after the other; what is known is written after each."""
    if not has_references:
        results.notes.append("Likeness was not measured: no reference images were given (--references).")
    measurer.without_scorer()
    for number, entry in enumerate(entries):
        results.write(measurer.values, f"partial, {number} of {len(entries)} scorers")
        try:
            scorer = entry.open(weights_dir, device)
            results.identities.append(scorer.identity)
            measurer.look(entry, scorer)
        except PureCCError as error:
            kept = f"Earlier measurements are in {results.folder}."
            raise type(error)(
                f"--scorers {entry.name}: {error.what}", f"{error.remedy or ''} {kept}".strip()
            ) from error
        del scorer
        if device.type == "cuda":
            torch.cuda.empty_cache()
    results.notes += _check_of_strength_0(measurer)
    report = results.write(measurer.values, "done")
    results.sheet(measurer.values, results.folder / "worst_first.png")
    return f"{report}\nSaved {results.folder}/results.json, report.md and worst_first.png"


def _check_of_strength_0(measurer: Measurer) -> list[str]:
    """Strength 0 must be the pretrained model, exactly."""
    base, off = measurer.arms[PRETRAINED], measurer.arms[OFF]
    wrong = [key for key in off.files if off.files[key].read_bytes() != base.files[key].read_bytes()]
    if wrong:
        return [f"WARNING: at strength 0, {len(wrong)} of {len(off.files)} images differ from the pretrained model's."]
    return [f"At strength 0, all {len(off.files)} images equal the pretrained model's to the bit."]


def _external(
    given: argparse.Namespace, prompts: Sequence[EvaluationPrompt], seeds: Sequence[int]
) -> list[ArmPictures]:
    folders = named_folders(given.external, "--external")
    bases = named_folders(given.external_base, "--external_base")
    unknown = sorted(set(bases) - set(folders))
    if unknown:
        raise ConfigError(f'--external_base: no --external is named "{unknown[0]}".')
    taken = sorted(set(folders) & set(CONTROLS))
    if taken:
        raise ConfigError(f'--external: the name "{taken[0]}" is already used.', "Give another.")
    arms = []
    for name, folder in folders.items():
        found = read_arm(name, Path(folder).expanduser(), prompts, seeds, given.allow_missing)
        base = None
        if name in bases:
            base = f"{name}, base model"
            of_base = read_arm(base, Path(bases[name]).expanduser(), prompts, seeds, given.allow_missing)
            _check_same_size(found, of_base)
            arms.append(ArmPictures(base, of_base.files, None))
        arms.append(ArmPictures(name, found.files, base))
    return arms


def _check_same_size(one: ExternalArm, other: ExternalArm) -> None:
    if one.size != other.size:
        raise ConfigError(
            f"--external_base: the images of {one.name} are {one.size[0]} x {one.size[1]}, those of its base model "
            f"{other.size[0]} x {other.size[1]}.",
            "Make both in the same size.",
        )


def _names(loras: Sequence[Path]) -> dict[str, Path]:
    """A name for each LoRA: its file's, with the folder's where that is not enough."""
    stems = [lora.stem for lora in loras]
    names = [
        stem if stems.count(stem) == 1 else f"{lora.parent.name}-{stem}"
        for stem, lora in zip(stems, loras, strict=True)
    ]
    for name in names:
        if names.count(name) > 1 or name in CONTROLS:
            raise ConfigError(f'--lora: two LoRAs have the name "{name}".', "Rename one of the files.")
    return dict(zip(names, loras, strict=True))
