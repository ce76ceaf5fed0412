"""One trial: an arm, a concept and a seed; both stages trained and the student scored on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.method.arms import ARMS, AS_FILE, CHECKPOINTS, STAGE_1, Arm
from benchmarks.method.concepts import CONCEPTS, BenchConcept, Probe, Sort
from benchmarks.method.drawing import draw, drift, guidance_inside, texts_of
from benchmarks.method.measures import measure
from library.config.dataset_file import read_concepts_and_pictures
from library.config.files import TomlFile, read_settings
from library.dual_branch_scheduler import PRETRAINED_BRANCH, Branch
from library.files.atomic import write_tensors, write_text
from library.files.fingerprint import of_key
from library.parts.parts import SAVED_ADAPTER, STUDENT_ADAPTER, Attached
from library.preflight.plan import make_plan
from library.prompts import NULL_PROMPT
from library.report.log import mean_of_end
from library.saving.outputs import save_extractor, shown_weights
from library.training.run import Run
from tools.pocket.pen import OBJECT, SIDE
from tools.pocket.scorer import load_scorer
from tools.pocket.world import draw as draw_scene

BASE = Path(__file__).with_name("base.toml")
REPLAY_PROMPTS = Path("dataset_configs/pocket_replay_prompts.txt")
SAMPLE_PROMPTS = Path("dataset_configs/pocket_sample_prompts.txt")
JUDGE = Path("pocket/judge.safetensors")
OTHER_NOISE = 10_000
"""Added to every probe's seed for the control of two pictures of the same prompt."""
WITHOUT: tuple[Sort, ...] = ("class", "unrelated")
"""The sorts of prompts without the concept."""
MEASURED = ("lambda_star", "cosine", "lambda_negative", "r_student", "r_target")

Turns = Callable[[Sequence[Probe]], Iterable[list[int]]]
"""Says which prompts are drawn together, by their numbers, in what order."""


def all_at_once(probes: Sequence[Probe]) -> Iterable[list[int]]:
    """One student for all prompts."""
    return [list(range(len(probes)))]


@dataclass(frozen=True)
class Trial:
    """What is trained and scored.

    Attributes:
        checkpoints: instead of the arm's.
        strengths: of the LoRA, besides 1, at which the finished student is scored as well.
    """

    arm: str
    concept: str
    seed: int
    checkpoints: tuple[int, ...] | None = None
    strengths: tuple[float, ...] = ()

    @property
    def scored_after(self) -> tuple[int, ...]:
        """The steps of stage 2 after which the student is scored; the last is its length."""
        return self.checkpoints or (ARMS[self.arm].checkpoints if self.arm in ARMS else CHECKPOINTS)

    def file(self, work: Path) -> Path:
        """Where its result is kept."""
        name = "".join(c if c.isalnum() else "-" for c in self.arm)
        return work / "trials" / f"{self.concept}-{self.seed}-{name}.json"


class Bench:
    """A folder in which trials are run: reference pictures, extractors, the pretrained model's pictures, results.

    Args:
        work: that folder.
        model: the pocket SD3's folder.
        given: settings for all trials, over those of the arms.
    """

    def __init__(self, work: Path, model: str, given: dict[str, Any] | None = None) -> None:
        self.work, self.model, self.given = work, model, given or {}
        self.judge = load_scorer(JUDGE)
        self._pretrained: dict[str, tuple[Tensor, Tensor]] = {}

    def run(self, trial: Trial) -> dict[str, Any]:
        """Trains and scores; returns the result as it is kept in JSON."""
        arm, concept = ARMS[trial.arm], CONCEPTS[trial.concept]()
        begin = time.perf_counter()
        extractor = self.extractor(arm, concept, trial.seed) if arm.extractor else None
        seconds = {"extractor": time.perf_counter() - begin}
        run = self._run(arm, concept, trial, {"extractor": str(extractor)} if extractor else {})
        begin = time.perf_counter()
        run.build_extractor()
        run.build_student()
        stage, rows, checkpoints = run.student_stage(), [], []
        beside: dict[str, list[dict[str, Any]]] = {way: [] for way in arm.beside}
        for steps in trial.scored_after:
            while stage.done < steps:
                rows.append(stage.step())
            paused = time.perf_counter()
            for way, scored in beside.items():
                scored.append({"steps": steps, **self.score(run.parts, concept, _drawn_as(way, run))})
            checkpoints.append({"steps": steps, **self.score(run.parts, concept, run.student.shown)})
            begin += time.perf_counter() - paused
        strengths = [
            {"strength": one, **self.score(run.parts, concept, run.student.shown, one)} for one in trial.strengths
        ]
        seconds["student"] = time.perf_counter() - begin
        log = {name: mean_of_end(rows, name) for name in MEASURED} | self.guidance(run, concept)
        return {
            "arm": trial.arm,
            "concept": trial.concept,
            "seed": trial.seed,
            "seconds": seconds,
            "log": {name: round(value, 4) for name, value in log.items() if value is not None},
            "checkpoints": checkpoints,
            "strengths": strengths,
            **beside,
        }

    def _run(self, arm: Arm, concept: BenchConcept, trial: Trial, given: dict[str, Any]) -> Run:
        """A run of one concept, as far as `prepared` brings it."""
        data = concept.write(
            self.work / "concepts" / f"{concept.name}-{arm.captions}-{arm.pictures}", arm.captions, arm.pictures
        )
        given = {"output_dir": str(self.work / "runs" / f"{concept.name}-{trial.seed}"), **given}
        return self.prepared(arm, data, trial.seed, trial.scored_after[-1], texts_of(concept.probes()), given)

    def prepared(
        self, arm: Arm, data: Path, seed: int, steps: int, texts: Sequence[str], given: Mapping[str, Any]
    ) -> Run:
        """A run that is ready to build its branches.

        Args:
            data: the dataset config.
            steps: of stage 2.
            texts: what its library has besides its own.
            given: settings over those of the arm, the folder of its files among them.
        """
        settings = read_settings(
            TomlFile(BASE),
            {
                **arm.settings,
                "dataset_config": str(data),
                "pretrained_model_name_or_path": self.model,
                "replay_prompts": str(self.replay_prompts()),
                "sample_prompts": str(SAMPLE_PROMPTS),
                "cache_dir": str(self.work / "cache"),
                "seed": seed,
                "max_train_steps": steps,
                "overwrite": True,
                **given,
                **self.given,
            },
        )
        run = Run(make_plan(settings, read_concepts_and_pictures(None, settings)))
        run.plan.parts.texts.prepare(texts)
        run.open_log()
        run.prepare()
        return run

    def replay_prompts(self) -> Path:
        """The file of prompts for replayed pictures."""
        path = self.work / "replay_prompts.txt"
        if not path.exists():
            write_text(path, REPLAY_PROMPTS.read_text(encoding="utf-8").replace("{class}", "creature"))
        return path

    def extractor(self, arm: Arm, concept: BenchConcept, seed: int) -> Path:
        """The extractor of an arm's kind, trained now if no arm before had the same."""
        shape = {name: value for name, value in arm.settings.items() if name in STAGE_1}
        key = of_key({**shape, "captions": arm.captions, "pictures": arm.pictures})[:12]
        folder = self.work / "extractors" / f"{concept.name}-{seed}-{key}"
        path = folder / "extractor_extractor.safetensors"
        if not path.exists():
            given = {**shape, "output_dir": str(folder), "output_name": "extractor"}
            given["replay_images"] = 96 if shape.get("extractor_replay_weight") else 0
            run = self._run(arm, concept, Trial("", concept.name, seed), given)
            run.build_extractor()
            stage = run.extractor_stage()
            while stage.done < stage.steps:
                stage.step()
            save_extractor(run.parts, run.extractor)
        return path

    def pretrained(self, parts: Attached, concept: BenchConcept) -> tuple[Tensor, Tensor]:
        """The pretrained model's pictures of the probes' base texts: latents and pixels."""
        if concept.name not in self._pretrained:
            probes = concept.probes()
            texts, seeds = [probe.base for probe in probes], [probe.seed for probe in probes]
            self._pretrained[concept.name] = draw(parts, PRETRAINED_BRANCH, texts, seeds, SIDE)
        return self._pretrained[concept.name]

    def guidance(self, run: Run, concept: BenchConcept) -> dict[str, float]:
        """Where the guidance of a run lies, if it has any and the concept is a subject."""
        pure = run.settings.pure_learning
        if concept.kind == "style" or pure.eta == 0:
            return {}
        latents, pixels = self.pretrained(run.parts, concept)
        rows = [k for k, probe in enumerate(concept.probes()) if probe.sort == "concept"]
        masks = (self.judge.look(pixels[rows]).regions == OBJECT).float().unsqueeze(1)
        triple = run.plan.triples[0]
        against = triple.class_only if pure.guidance_against == "class" else NULL_PROMPT
        return guidance_inside(
            run.parts,
            run.extractor.guide,
            [(triple.target, concept.name), (against, concept.name)],
            latents[rows],
            F.adaptive_avg_pool2d(masks, latents.shape[-2:]).squeeze(1),
        )

    def score(
        self, parts: Attached, concept: BenchConcept, branch: Branch, strength: float = 1.0, turns: Turns = all_at_once
    ) -> dict[str, Any]:
        """All measures of a student as it stands; pictures are kept for the sheet.

        Args:
            turns: which prompts are drawn together, for a student that is another for each prompt.
        """
        latents, before = self.pretrained(parts, concept)
        parts.network.set_strength(STUDENT_ADAPTER, strength)
        probes, pictures = concept.probes(), torch.empty_like(before)
        drifts: dict[int, float] = {}
        for rows in turns(probes):
            _, pictures[rows] = draw(
                parts, branch, [probes[k].text for k in rows], [probes[k].seed for k in rows], SIDE
            )
            for sort in WITHOUT:
                plain = [k for k in rows if probes[k].sort == sort]
                if plain:
                    drifts |= zip(plain, drift(parts, branch, [probes[k] for k in plain], latents[plain]), strict=True)
        values = measure(concept, probes, self.judge, pictures, before)
        for sort in WITHOUT:
            values[sort]["drift"] = [drifts[k] for k, probe in enumerate(probes) if probe.sort == sort]
        parts.network.set_strength(STUDENT_ADAPTER, 1.0)
        if strength == 1.0:
            self.last_pictures = pictures
        return {"probes": {sort: rounded(of_sort) for sort, of_sort in values.items()}}

    def controls(self, concept: BenchConcept) -> list[dict[str, Any]]:
        """What bounds every table: the pretrained model itself, itself from other noise, and drawn pictures."""
        run = self._run(Arm({"replay_images": 0, "context_vectors": 0}, ""), concept, Trial("", concept.name, 0), {})
        probes, parts = concept.probes(), run.parts
        _, before = self.pretrained(run.parts, concept)
        results = []
        for name, texts, shift in (
            ("pretrained", [probe.text for probe in probes], 0),
            ("pretrained, other noise", [probe.base for probe in probes], OTHER_NOISE),
        ):
            seeds = [probe.seed + shift for probe in probes]
            _, pictures = draw(parts, PRETRAINED_BRANCH, texts, seeds, SIDE)
            values = measure(concept, probes, self.judge, pictures, before)
            for sort in WITHOUT:
                values[sort]["drift"] = [0.0] * len(values[sort]["pixels"])
            results.append(_control(name, concept, values))
        asked = [k for k, probe in enumerate(probes) if probe.sort == "concept"]
        truth = measure(concept, [probes[k] for k in asked], self.judge, drawn(concept), before[asked])
        return [*results, _control("drawn", concept, {"concept": truth["concept"]})]

    def keep_pictures(self, trial: Trial) -> None:
        """Writes the last scored pictures, for the sheet."""
        self._keep(trial, self.last_pictures)

    def keep_pretrained(self, concept: str) -> None:
        """Writes the pretrained model's pictures, for the sheet."""
        self._keep(Trial("pretrained", concept, 0), self._pretrained[concept][1])

    def _keep(self, trial: Trial, pictures: Tensor) -> None:
        write_tensors(trial.file(self.work).with_suffix(".safetensors"), {"pictures": as_bytes(pictures)})


def _drawn_as(way: str, run: Run) -> Branch:
    """The student drawn in another way, of `BESIDE`."""
    if way == AS_FILE:
        shown_weights(run.parts)
        return Branch({}, {}, default=SAVED_ADAPTER)
    return run.student.branch


def as_bytes(pictures: Tensor) -> Tensor:
    """Pictures as they are kept: uint8 instead of -1..1."""
    return ((pictures.clamp(-1, 1) + 1) * 127.5).round().byte()


def drawn(concept: BenchConcept) -> Tensor:
    """What the pictures of the prompts with the concept would be if nothing were wrong, (N, 3, side, side), -1 to 1."""
    pictures = torch.stack([torch.tensor(draw_scene(scene).picture) for scene in concept.truths()])
    return pictures.permute(0, 3, 1, 2).float() / 127.5 - 1


def rounded(values: dict[str, Sequence[float | None]]) -> dict[str, list[float | None]]:
    """Measures as they are kept, to four digits."""
    return {name: [None if one is None else round(float(one), 4) for one in some] for name, some in values.items()}


def _control(name: str, concept: BenchConcept, values: dict[str, Any]) -> dict[str, Any]:
    probes = {sort: rounded(of_sort) for sort, of_sort in values.items()}
    return {"arm": name, "concept": concept.name, "seed": 0, "checkpoints": [{"steps": 0, "probes": probes}]}
