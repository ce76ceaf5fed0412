"""The models that hold several concepts: trained, merged and asked for each of them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.method.concepts import BenchConcept, Probe, write_together
from benchmarks.method.drawing import draw, texts_of
from benchmarks.method.measures import fidelity, measure
from benchmarks.method.together.pairs import Pair, mixed_colours, others_colours, pairs_of
from benchmarks.method.together.recipes import (
    AGGREGATED,
    ALONE,
    COLOURS,
    DRAWN,
    FUSED,
    JOINTLY,
    MIXED,
    PRETRAINED,
    RECIPES,
    TRIGGERS,
    concepts_of,
    looks_of,
    plain,
    trial_file,
)
from benchmarks.method.trial import BASE, Bench, Turns, all_at_once, as_bytes, drawn, rounded
from library.adapters.files import ConceptFile, concept_file_of, load_lora
from library.adapters.network import LowRankWeights
from library.config.dataset import Concept
from library.config.family_settings import attention_layers, feed_forward_layers
from library.config.files import TomlFile, read_settings
from library.convert.fusing import Aggregation, Fusion, fuse, scenes, target_texts, weighed
from library.convert.merge import merged
from library.dual_branch_scheduler import PRETRAINED_BRANCH, Branch
from library.files.atomic import write_tensors, write_text
from library.parts.parts import STUDENT_ADAPTER, build_parts
from library.parts.saved_vectors import embeddings_of
from library.prepare.replay import replay_lines
from library.saving.outputs import save_student
from library.training.stage import Stage
from tools.pocket.pen import SIDE

FILES = {"save_precision": "float", "save_formats": ["kohya"], "output_name": "student"}


class Together:
    """A folder in which recipes are followed, with one training seed.

    Args:
        names: of the concepts that are in one model.
        given: settings for all runs, over those of the recipes.
    """

    def __init__(
        self, work: Path, model: str, seed: int, names: Sequence[str], given: Mapping[str, Any] | None = None
    ) -> None:
        self.work, self.model, self.seed = work, model, seed
        self.bench, self.taught = Bench(work, model, dict(given or {})), concepts_of(names)
        self.pairs = pairs_of([*self.taught.values()])
        self.concepts = [Concept(**one.described()) for one in self.taught.values()]
        any_layers = {"target_modules": attention_layers() + feed_forward_layers()}
        opened = build_parts(read_settings(TomlFile(BASE), {**self._common(), **any_layers}), self.concepts)
        texts = [text for one in (*self.taught.values(), *self.pairs) for text in texts_of(one.probes())]
        opened.texts.prepare([*texts, *target_texts(self.concepts)])
        self.parts = opened.attach()

    def _common(self) -> dict[str, Any]:
        return {
            **FILES,
            "pretrained_model_name_or_path": self.model,
            "replay_prompts": str(self.bench.replay_prompts()),
            "cache_dir": str(self.work / "cache"),
            "seed": self.seed,
        }

    # LoRAs

    def learned(self, recipe: str, label: str, names: Sequence[str], changed: Mapping[str, Any]) -> Path:
        """The LoRA of a run with these concepts, its vectors beside it; trained now if it is not there yet.

        Args:
            label: of the run, among those of the recipe.
            changed: settings over those of the recipe.
        """
        one, folder = RECIPES[recipe], self.work / "loras" / f"{plain(recipe)}-{self.seed}" / label
        arm, steps = one.arm, one.steps(len(names))
        if not folder.exists():
            data = [self.taught[name] for name in names]
            file = write_together(data, self.work / "concepts" / "-".join(names), arm.captions, arm.pictures)
            given = {**FILES, "sample_prompts": str(self._sample_prompts()), **changed}
            if arm.extractor:
                given["extractor_train_steps"] = one.extractor_steps(len(names))
            with _whole(folder) as unfinished:
                given["output_dir"] = str(unfinished)
                run = self.bench.prepared(arm, file, self.seed, steps, [], given)
                run.build_extractor()
                if arm.extractor:
                    _train(run.extractor_stage())
                run.build_student()
                _train(run.student_stage())
                save_student(run.parts, run.student, steps)
        return folder / "student.safetensors"

    def _sample_prompts(self) -> Path:
        """Prompts that no sheet is made of; with several concepts, [V] could be any of them."""
        path = self.work / "sample_prompts.txt"
        write_text(path, "\n".join(target_texts(self.concepts)) + "\n")
        return path

    def apart(self, recipe: str) -> dict[str, Path]:
        """The LoRA of each concept, from a run of its own."""
        found: dict[str, Path] = {}
        for name in self.taught:
            earlier = {"previous_loras": [str(one) for one in found.values()]} if RECIPES[recipe].sequence else {}
            found[name] = self.learned(recipe, name, [name], earlier)
        return found

    def fused(self, recipe: str, way: str) -> Path:
        """The LoRA that fusion makes of them, by words alone where they do without vectors."""
        folder = self.work / "loras" / f"{plain(recipe)}-{self.seed}" / plain(way)
        if not folder.exists():
            loras = [*self.apart(recipe).values()]
            with _whole(folder) as unfinished:
                settings = read_settings(TomlFile(BASE), {**self._common(), "output_dir": str(unfinished)})
                lines, targets = replay_lines(settings), target_texts(self.concepts)
                prompts = [[target, *scenes(lines, one)] for target, one in zip(targets, self.concepts, strict=True)]
                fuse(settings, loras, prompts, (SIDE, SIDE), Fusion(**FUSED[way]))
        return folder / "student.safetensors"

    def files(self, recipe: str, way: str, name: str) -> list[Path]:
        """The LoRAs that make a model; of a concept alone, that of this one."""
        if way in JOINTLY:
            return [self.learned(recipe, plain(way), [*self.taught], JOINTLY[way])]
        if way in FUSED:
            return [self.fused(recipe, way)]
        loras = self.apart(recipe)
        return [loras[name]] if way == ALONE else [*loras.values()]

    # Models

    def trial(self, recipe: str, way: str) -> dict[str, Any]:
        """Brings the concepts into one model and asks it for each of them; keeps the pictures for the sheet."""
        begin, found, kept = time.perf_counter(), {}, {}
        for name, concept in self.taught.items():
            student = self._student(way, self.files(recipe, way, name))
            found[name] = self._asked(concept, *student)
            kept[name] = as_bytes(self.bench.last_pictures)
        together = {} if way == ALONE else {one.name: self._in_one_prompt(one, kept, *student) for one in self.pairs}
        write_tensors(trial_file(self.work, recipe, way, self.seed).with_suffix(".safetensors"), kept)
        about = {"recipe": recipe, "way": way, "seed": self.seed, "seconds": time.perf_counter() - begin}
        return {**about, "concepts": found, "pairs": together}

    def controls(self) -> list[dict[str, Any]]:
        """What bounds the tables; they know no training seed."""
        found: dict[str, dict[str, Any]] = {PRETRAINED: {}, DRAWN: {}}
        kept: dict[str, Tensor] = {}
        self._load({})
        for name, concept in self.taught.items():
            found[PRETRAINED][name] = self._asked(concept, PRETRAINED_BRANCH, all_at_once)
            kept[name] = as_bytes(self.bench.last_pictures)
            probes, asked, truth = concept.probes(), _with_concept(concept), drawn(concept)
            before = self.bench.pretrained(self.parts, concept)[1][asked]
            values = measure(concept, [probes[k] for k in asked], self.bench.judge, truth, before)["concept"]
            found[DRAWN][name] = {"concept": {**rounded(values), **self._others(concept, truth)}}
        pairs = {one.name: self._in_one_prompt(one, kept, PRETRAINED_BRANCH, all_at_once) for one in self.pairs}
        write_tensors(trial_file(self.work, PRETRAINED, "", 0).with_suffix(".safetensors"), kept)
        return [
            {"recipe": name, "way": "", "seed": 0, "concepts": concepts, "pairs": pairs if name == PRETRAINED else {}}
            for name, concepts in found.items()
        ]

    def _student(self, way: str, loras: Sequence[Path]) -> tuple[Branch, Turns]:
        """The model of these LoRAs, and which prompts it draws at once; vectors act that the LoRAs can't do without."""
        vectors = {}
        for file in filter(None, map(concept_file_of, loras)):
            vectors |= ConceptFile(file).load()[0]
        branch = Branch({}, embeddings_of(self.parts, vectors, "the concept files"), default=STUDENT_ADAPTER)
        weights = [load_lora(path, len(self.parts.model.blocks)) for path in loras]
        if way == AGGREGATED:
            return branch, partial(self._one_by_one, weights, Aggregation(self.parts, vectors, (SIDE, SIDE)))
        self._load(merged(weights, [1.0] * len(weights)))
        return branch, all_at_once

    def _one_by_one(
        self, loras: Sequence[LowRankWeights], aggregation: Aggregation, probes: Sequence[Probe]
    ) -> Iterator[list[int]]:
        """Prompt by prompt, the LoRAs weighed for it."""
        for index, probe in enumerate(probes):
            self._load(weighed(loras, aggregation.weights(probe.text), self.parts.model.block_lists))
            yield [index]

    def _load(self, weights: LowRankWeights) -> None:
        self.parts.network.load(STUDENT_ADAPTER, weights, "the model")

    # Measures

    def _asked(self, concept: BenchConcept, branch: Branch, turns: Turns) -> dict[str, Any]:
        """All measures of the bench, and how much the other concepts show in this one's pictures."""
        result = self.bench.score(self.parts, concept, branch, turns=turns)["probes"]
        result["concept"] |= self._others(concept, self.bench.last_pictures[_with_concept(concept)])
        return result

    def _others(self, concept: BenchConcept, pictures: Tensor) -> dict[str, list[float | None]]:
        """How likely the others' looks are, and their colours; not of a style, whose pictures show no creatures."""
        if concept.kind == "style":
            return {}
        look = self.bench.judge.look(pictures)
        others = [one for name, one in sorted(self.taught.items()) if name != concept.name]
        values = {looks_of(one.name): fidelity(look, one.identity).tolist() for one in others}
        coloured = [one.identity for one in others if one.kind == "subject"]
        if coloured:
            values[COLOURS] = others_colours(look, concept.identity, coloured).tolist()
        return rounded(values)

    def _in_one_prompt(
        self, pair: Pair, kept: dict[str, Tensor], branch: Branch, turns: Turns
    ) -> dict[str, list[float | None]]:
        """How likely the looks of each are where both are asked for, and their colours mixed on one thing."""
        probes = pair.probes()
        pictures = torch.empty(len(probes), 3, SIDE, SIDE)
        for rows in turns(probes):
            some = [probes[k] for k in rows]
            _, pictures[rows] = draw(self.parts, branch, [one.text for one in some], [one.seed for one in some], SIDE)
        kept[pair.name], look = as_bytes(pictures), self.bench.judge.look(pictures)
        values = {looks_of(one.name): fidelity(look, one.identity).tolist() for one in pair.both}
        if pair.other.kind == "subject":
            values[MIXED] = mixed_colours(look, pair.one.identity, pair.other.identity).tolist()
        return rounded(values)


def _with_concept(concept: BenchConcept) -> list[int]:
    return [k for k, probe in enumerate(concept.probes()) if probe.sort == "concept"]


def _train(stage: Stage) -> None:
    while stage.done < stage.steps:
        stage.step()


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A folder to write to, which gets its name when all is in it."""
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    yield unfinished
    unfinished.rename(folder)


def follow(work: Path, model: str, recipe: str, ways: Sequence[str], seed: int, threads: int) -> None:
    """Some trials of a recipe, one after the other; of no recipe, the controls."""
    torch.set_num_threads(threads)
    together = Together(work, model, seed, RECIPES[recipe].names if recipe else [*TRIGGERS])
    for way in ways:
        result = together.trial(recipe, way)
        write_text(trial_file(work, recipe, way, seed), json.dumps(result))
        print(f"{recipe}, {way}, seed {seed}: {result['seconds']:.0f} s", flush=True)
    if not recipe:
        for result in together.controls():
            write_text(trial_file(work, result["recipe"], "", 0), json.dumps(result))
