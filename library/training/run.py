"""A run from its plan to its files: prepare, extractor, student, results."""

from __future__ import annotations

import itertools
import shutil
import time
from pathlib import Path
from typing import Any

import toml
import torch

from library.adapters.linear import LowRank
from library.atomic import write_text
from library.checkpoint import Position, SavedState, StateFolder, load_state
from library.config import dataset as dataset_config
from library.config.files import as_tables
from library.data.pictures import Latents
from library.dual_branch_scheduler import DualBranchScheduler
from library.errors import ConfigError, Interrupted
from library.hierarchical_embedding_injector import ConceptEmbeddings
from library.objectives import EXTRACTOR, STUDENT, Objective, extractor_objective, student_objective
from library.report.log import RunLog, mean_of_end, read_log
from library.report.plot import plot_log
from library.report.progress import StageBar, bar_over, say
from library.training.interrupt import StopRequest
from library.training.outputs import load_extractor, save_extractor, save_student
from library.training.parts import STUDENT_ADAPTER, class_states, extractor_adapter
from library.training.plan import Plan
from library.training.replay import draw_replay
from library.training.scenes import Replay, SceneMaker
from library.training.sheets import SheetMaker
from library.training.stage import Learner, Stage

PICTURES_FOR_CLASS_STATES = 4
WEAK_COSINE = 0.2
"""A mean cosine below this at the end of stage 2 means that the extractor taught the student little."""


class Run:
    """One training run.

    Args:
        plan: checked settings, pictures and prompts.

    Raises:
        ConfigError: an unfinished run is in the way, or the state to resume does not fit.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan, self.settings, self.parts = plan, plan.settings, plan.parts
        self.folder = self.settings.output_dir
        self.states = StateFolder(self.folder / f"{self.settings.saving.output_name}-state")
        self.latents = Latents(self.parts.model, self.parts.cache)
        self.replay: Replay | None = None
        self.resumed = self._state_to_resume()

    def train(self) -> list[Path]:
        """Runs what is left of the run; returns the files of the student.

        Raises:
            Interrupted: Ctrl-C; the state is saved.
        """
        self._write_config()
        done = self.resumed.position.done if self.resumed else None
        self.log = RunLog(self.folder, done, self.settings.saving.log_with == "tensorboard")
        try:
            with torch.random.fork_rng(devices=[]):
                self._prepare()
                self._build_extractor()
                if EXTRACTOR in self.plan.stage_steps:
                    self._train_extractor()
                self._build_student()
                return self._train_student()
        finally:
            self.log.close()
            plot_log(read_log(self.log.path), self.folder / "training.png")

    # Before training

    def _state_to_resume(self) -> SavedState | None:
        saving, newest = self.settings.saving, self.states.newest()
        if saving.overwrite:
            self.states.remove()
            return None
        if saving.resume == "auto":
            return load_state(newest, self._shaping()) if newest else None
        if saving.resume:
            return load_state(Path(saving.resume).expanduser(), self._shaping())
        if newest:
            raise ConfigError(
                f"{self.folder} holds an unfinished run ({newest.name}).",
                "Go on with it by --resume auto, or start anew with --overwrite.",
            )
        return None

    def _shaping(self) -> dict[str, Any]:
        """Settings that a resumed run must keep, by name."""
        tables = as_tables(self.settings, shaping_only=True)
        flat = {name: value for table in tables.values() for name, value in table.items()}
        return {**flat, **dataset_config.as_tables(self.plan.config)}

    def _write_config(self) -> None:
        """Writes `config.toml`, runnable as it is: every setting in force, with the dataset config in it."""
        tables = as_tables(self.settings)
        tables["data"].pop("dataset_config", None)
        for name in ("resume", "overwrite"):
            tables["saving"].pop(name, None)
        for section, name in (
            ("model", "pretrained_model_name_or_path"),
            ("saving", "cache_dir"),
            ("saving", "output_dir"),
        ):
            tables[section][name] = str(Path(tables[section][name]).expanduser().resolve())
        for section, name in (
            ("samples", "sample_prompts"),
            ("pure_learning", "replay_prompts"),
            ("pure_learning", "extractor"),
        ):
            if name in tables[section]:
                tables[section][name] = str(Path(tables[section][name]).expanduser().resolve())
        text = toml.dumps({**tables, **dataset_config.as_tables(self.plan.config)})
        write_text(self.folder / "config.toml", text)

    def _prepare(self) -> None:
        """Text and latents once, then the encoders go and the transformer comes."""
        parts, model = self.parts, self.parts.model
        parts.texts.prepare(self.plan.texts(), bar_over("text"))
        model.release_text_encoders()
        self.latents.prepare(self.plan.pictures, bar_over("latents"))
        model.release_vae()
        parts.attach()
        for notice in model.notices:
            say(notice)
        if self.plan.uses_replay:
            self.replay = draw_replay(parts, self.plan.size, bar_over("replayed pictures"))
        self.sheets = SheetMaker(parts, self.plan.samples, self.plan.size)

    def _build_extractor(self) -> None:
        """Fresh extractors and their embeddings, or those of another run."""
        pure, embeddings = self.settings.pure_learning, self.settings.concept_embeddings
        if pure.extractor:
            load_extractor(self.parts, pure.extractor)
            return
        for concept in self.plan.config.concepts:
            self.parts.add_adapter(extractor_adapter(concept.name))
            if embeddings.concept_embeddings != "none":
                shown = [picture for picture in self.plan.pictures if picture.concept is concept]
                shown = [picture for picture in shown if picture.size == shown[0].size][:PICTURES_FOR_CLASS_STATES]
                vectors = class_states(self.parts, concept, torch.stack([self.latents.mean(p) for p in shown]))
                self.parts.extractor_embeddings[concept.name] = self.parts.embeddings_from(vectors)
        if self.resumed:
            self._restore(self.resumed.tree[EXTRACTOR], self._extractor_adapters(), self.parts.extractor_embeddings)

    def _build_student(self) -> None:
        """A fresh student; its embeddings start as the extractor's."""
        own = self.settings.concept_embeddings.student_embeddings
        self.parts.add_adapter(STUDENT_ADAPTER)
        if own == "own":
            self.parts.student_embeddings = self.parts.copied(self.parts.extractor_embeddings)
        elif own == "shared":
            self.parts.student_embeddings = self.parts.extractor_embeddings
        if self.resumed and STUDENT in self.resumed.tree:
            self._restore(self.resumed.tree[STUDENT], [STUDENT_ADAPTER], self.parts.student_embeddings)

    def _extractor_adapters(self) -> list[str]:
        return [extractor_adapter(concept.name) for concept in self.plan.config.concepts]

    # The stages

    def _train_extractor(self) -> None:
        optimizer = self.settings.optimizer
        rates = [
            optimizer.extractor_learning_rate
            if optimizer.extractor_learning_rate is not None
            else optimizer.learning_rate,
            optimizer.extractor_embedding_lr
            if optimizer.extractor_embedding_lr is not None
            else optimizer.embedding_lr,
        ]
        learners = self._learners(self._extractor_adapters(), self.parts.extractor_embeddings, rates)
        stage = self._stage(EXTRACTOR, extractor_objective(self.settings.pure_learning), learners)
        self._run(stage)
        save_extractor(self.parts)
        if not (self.resumed and STUDENT in self.resumed.tree):
            path = self.folder / "samples" / "extractor.png"
            columns = {"extractor": self.parts.branches()[EXTRACTOR]}
            if len(self.plan.config.concepts) == 1:
                columns = {"extractor": self._only_extractor()}
            self.sheets.make(path, f"Stage 1: the extractor after {stage.steps} steps", columns, bar_over("sheet"))

    def _only_extractor(self):
        """The only concept's extractor as the branch of any row."""
        from dataclasses import replace

        return replace(self.parts.branches()[EXTRACTOR], default=self._extractor_adapters()[0])

    def _train_student(self) -> list[Path]:
        pure, optimizer = self.settings.pure_learning, self.settings.optimizer
        rates = [optimizer.learning_rate, optimizer.embedding_lr]
        embeddings = self.parts.student_embeddings
        if self.settings.concept_embeddings.student_embeddings == "shared":
            embeddings = {}
        adapters = [STUDENT_ADAPTER]
        if pure.merged:
            adapters += self._extractor_adapters()
            embeddings = {**{f"extractor {k}": v for k, v in self.parts.extractor_embeddings.items()}, **embeddings}
        stage = self._stage(STUDENT, student_objective(pure), self._learners(adapters, embeddings, rates))
        if stage.done == 0:
            self._sheet(stage)
        self._run(stage)
        files = save_student(self.parts, stage.done)
        self._sheet(stage)
        self._say_if_weak()
        self.states.remove()
        return files

    def _learners(
        self, adapters: list[str], embeddings: dict[str, ConceptEmbeddings], rates: list[float]
    ) -> list[Learner]:
        """The weights that learn in a stage; all others are frozen."""
        self.parts.network.train_only(adapters)
        for frozen in (*self.parts.extractor_embeddings.values(), *self.parts.student_embeddings.values()):
            frozen.requires_grad_(False)
        for learning in embeddings.values():
            learning.requires_grad_(True)
        weights = [weight for adapter in adapters for weight in self.parts.network.parameters(adapter)]
        vectors = [one.vectors for one in embeddings.values()]
        return [Learner("lr", weights, rates[0]), Learner("embedding_lr", vectors, rates[1])]

    def _stage(self, name: str, objective: Objective, learners: list[Learner]) -> Stage:
        parts, settings = self.parts, self.settings
        branches = DualBranchScheduler(
            parts.model,
            parts.network,
            parts.injector,
            parts.branches(),
            objective.readings,
            together=settings.optimizer.batch_passes == "together",
        )
        wanted = {reading.prediction.prompt for reading in objective.readings}
        seed = settings.optimizer.seed
        scenes = SceneMaker(name, seed, settings.noise, self.plan.order, self.latents, parts.texts, wanted, self.replay)
        fp16 = settings.model.mixed_precision == "fp16"
        steps = self.plan.stage_steps[name]
        stage = Stage(name, steps, objective, branches, scenes, learners, settings.optimizer, fp16)
        if self.resumed and name in self.resumed.tree["stages"]:
            stage.load_state(self.resumed.tree["stages"][name])
        return stage

    def _run(self, stage: Stage) -> None:
        """Trains the stage to its end, saving on the way."""
        saving, samples = self.settings.saving, self.settings.samples
        bar = StageBar(stage.name, stage.steps, stage.done)
        with StopRequest() as stop:
            while stage.done < stage.steps:
                begin = time.perf_counter()
                row = stage.step()
                row["it_s"] = 1 / (time.perf_counter() - begin)
                self.log.write(row)
                bar.step(row)
                if stop.made:
                    self._save_state(stage)
                    bar.close()
                    raise Interrupted(
                        f"Stopped after step {stage.done} of {stage.steps} of the {stage.name}; all is saved. The same "
                        "command with --resume auto goes on."
                    )
                if stage.done % saving.save_state_every_n_steps == 0 or stage.done == stage.steps:
                    self._save_state(stage)
                if stage.name == STUDENT and stage.done < stage.steps:
                    if samples.sample_every_n_steps and stage.done % samples.sample_every_n_steps == 0:
                        self._sheet(stage)
                    if saving.save_every_n_steps and stage.done % saving.save_every_n_steps == 0:
                        save_student(self.parts, stage.done, f"-step{stage.done:08d}")
        bar.close()

    def _sheet(self, stage: Stage) -> None:
        path = self.folder / "samples" / f"student_{stage.done:06d}.png"
        title = f"{self.settings.saving.output_name}: the student after {stage.done} of {stage.steps} steps"
        self.sheets.make(path, title, {"student": self.parts.branches()[STUDENT]}, bar_over("sheet"))
        plot_log(read_log(self.log.path), self.folder / "training.png")

    def _say_if_weak(self) -> None:
        rows = [row for row in read_log(self.log.path) if row["stage"] == STUDENT]
        cosine = mean_of_end(rows, "cosine")
        if cosine is not None and cosine < WEAK_COSINE:
            say(
                f"The student ended at a mean cosine of {cosine:.2f} with the extractor's guidance, which is low: the "
                "extractor is weak. Give stage 1 more steps (extractor_train_steps), or raise its learning rate."
            )

    # State

    def _save_state(self, stage: Stage) -> None:
        done = {name: 0 for name in self.plan.stage_steps}
        for name in itertools.takewhile(lambda name: name != stage.name, self.plan.stage_steps):
            done[name] = self.plan.stage_steps[name]
        done[stage.name] = stage.done
        tree: dict[str, Any] = {"stages": {stage.name: stage.state()}}
        if not self.settings.pure_learning.extractor:
            tree[EXTRACTOR] = self._weights(self._extractor_adapters(), self.parts.extractor_embeddings)
        if stage.name == STUDENT:
            tree[STUDENT] = self._weights([STUDENT_ADAPTER], self.parts.student_embeddings)
        self.states.save(SavedState(Position(done), self._shaping(), tree))

    def _weights(self, adapters: list[str], embeddings: dict[str, ConceptEmbeddings]) -> dict[str, Any]:
        return {
            "adapters": {
                adapter: {name: [low.down, low.up] for name, low in self._low_ranks(adapter)} for adapter in adapters
            },
            "embeddings": {name: one.vectors for name, one in embeddings.items()},
        }

    @torch.no_grad()
    def _restore(self, tree: dict[str, Any], adapters: list[str], embeddings: dict[str, ConceptEmbeddings]) -> None:
        for adapter in adapters:
            for name, low_rank in self._low_ranks(adapter):
                down, up = tree["adapters"][adapter][name]
                low_rank.down.copy_(down)
                low_rank.up.copy_(up)
        for name, one in embeddings.items():
            one.vectors.copy_(tree["embeddings"][name])

    def _low_ranks(self, adapter: str) -> list[tuple[str, LowRank]]:
        return [(name, layer.adapters[adapter]) for name, layer in self.parts.network.layers.items()]


def free_space(folder: Path) -> int:
    """Bytes that are free where a folder is or will be."""
    existing = next(path for path in [folder, *folder.absolute().parents] if path.exists())
    return shutil.disk_usage(existing).free
