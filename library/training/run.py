"""A run from its plan to its files: prepare, extractor, student, results."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from library.config.dataset import Concept
from library.config.in_force import in_force
from library.config.settings import Settings
from library.data.latents import Latents
from library.drawing.sheet_maker import preview_of
from library.errors import Interrupted
from library.files.atomic import write_text
from library.files.checkpoint import FINAL, StateFolder
from library.models.interface import Progress
from library.parts.branching import scheduler_of
from library.parts.context import Context
from library.parts.learnable import restore
from library.parts.learned import Extractor, Learned, Student, fresh_extractor, fresh_student
from library.parts.network_weights import start_from_weights
from library.parts.parts import Attached
from library.predictions import EXTRACTOR, STUDENT
from library.preflight.checks import check
from library.preflight.plan import Plan
from library.prepare.class_states import class_states, latents_of
from library.prepare.replay import Replay
from library.report.log import RunLog, read_log
from library.report.progress import bar_over
from library.report.status import end_of_killed
from library.saving.finished import forget_finished, note_finished, what_to_do
from library.saving.keeping import AT_STEP, BEST, Keeping
from library.saving.metadata import data_metadata, own_thumbnail
from library.saving.outputs import load_extractor, save_extractor, save_preview, save_student
from library.terminal import say
from library.training.assembly import Ingredients, make_stage
from library.training.average import Average
from library.training.control import SAMPLE, SAVE, STOP, Control
from library.training.interrupt import StopRequest
from library.training.listeners import Listener, Listeners, Look
from library.training.monitor import Monitor
from library.training.out_of_memory import step_down
from library.training.pace import StepsAfter
from library.training.preparation import prepare
from library.training.processes import ALONE, Processes
from library.training.resuming import all_done, shaping, state_of, state_to_resume
from library.training.stage import OutOfMemory, Stage
from library.training.validation import ValidationLoss

T = TypeVar("T")


class Run:
    """One training run.

    Args:
        plan: checked settings, pictures and prompts.
        processes: which make its steps together; only the main one writes files.

    Attributes:
        listeners, monitor: follow and show the run; only in the main process, once the log is open.
        planned: seconds per step of each stage, if predicted for the GPU in use.
        after: counts what comes after each stage, in steps of it; by default nothing is known.
        parts, context, replay, fisher: set once prepared.
        extractor, student: set once built.
        average: of the student; empty until that is built.
        looks: which also look at the finished student, once its files are saved.
        done: the notes of the finished run, if nothing is left to do.

    Creating one computes nothing and writes nothing. All checks run here, so a dry run finds the same errors.

    Raises:
        PureCCError: everything that `library.preflight.checks` finds.
        ConfigError: an unfinished run is in the way, or the state to resume doesn't fit.
    """

    parts: Attached
    context: Context
    replay: Replay | None
    fisher: Mapping[str, Tensor] | None
    extractor: Extractor
    student: Student

    def __init__(self, plan: Plan, processes: Processes = ALONE) -> None:
        self.processes = processes
        self.plan = plan
        self.folder = self.settings.output_dir
        self.states = StateFolder(self.folder / f"{self.settings.saving.output_name}-state")
        with processes.main_first():
            if processes.main:
                check(plan)
            self.resumed = state_to_resume(plan, self.states)
        self.done = all_done(plan, self.states)
        prior = self.settings.pure_learning.prior_loss_weight
        self.latents = Latents(plan.parts.model, plan.parts.cache, reg_weight=1.0 if prior is None else prior)
        self.validation = ValidationLoss(self.latents, plan.validation, self.settings, plan.order.batches_per_epoch)
        self.looks: list[Look[Run]] = []
        self.average = Average([], None)
        self.keeping = Keeping(self.settings.saving, self.folder)
        self.listeners = Listeners()
        self.monitor: Monitor | None = None
        self.planned: dict[str, float] = {}
        self.after: StepsAfter = dict
        self.stop = StopRequest()
        self.control = Control(self.folder)

    def train(self) -> list[Path]:
        """Runs what is left of the run; returns the files of the student.

        Raises:
            Interrupted: Ctrl-C or the like; the state is saved.
        """
        if self.done:
            say(what_to_do(self.settings.saving, self.done, (self.states.folder / FINAL).is_dir()))
            if self.processes.main:
                end_of_killed(self.folder)
            return [self.folder / name for name in self.done.files]
        with self.stop, self.control.listening() if self.processes.main else nullcontext():
            return self._to_the_end()

    def _to_the_end(self) -> list[Path]:
        with self.processes.main_first():
            if self.processes.main:
                self._begin()
            self.open_log()
        with self.listeners.to_the_end():
            try:
                return self._train()
            except KeyboardInterrupt as stop:
                saved = self.states.newest()
                how = "with --resume auto to continue where it was saved" if saved else "to start from the beginning"
                raise Interrupted(f"{stop or 'Stopped.'} The cache is kept. Run the same command {how}.") from None

    def _train(self) -> list[Path]:
        self.prepare()
        self.build_extractor()
        self.train_extractor()
        self.build_student()
        return self.train_student()

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self.plan.settings

    def settle(self, settings: Settings) -> None:
        """Puts these settings in force, for the run and all listeners."""
        self.plan = self.plan.with_settings(settings)
        self.parts = replace(self.parts, settings=settings)
        self.listeners.tell(Listener.settled, self.plan, self.parts)

    # Before training

    def _begin(self) -> None:
        if self.settings.saving.overwrite:
            self.states.remove()
        if self.settings.saving.resume != "auto":
            forget_finished(self.settings.saving)
        self._write_settings()

    def _write_settings(self) -> None:
        write_text(self.folder / "config.toml", in_force(self.settings, self.plan.config))

    def open_log(self) -> None:
        """Starts the log in the main process, or continues it from the state to resume, and adds the listeners."""
        done = self.resumed.position.done if self.resumed else None
        if self.processes.main:
            self.monitor = Monitor(self.plan, self.listeners, done, self.planned, self.after)

    @property
    def log(self) -> RunLog:
        """The log of the main process, once it is open."""
        assert self.monitor is not None
        return self.monitor.log

    def prepare(self) -> None:
        """Computes text and latents once, then releases the encoders and loads the transformer."""
        made = prepare(self.plan, self.latents, self.processes, self.listeners, self.progress, self.resumed is not None)
        self.parts, self.context, self.replay, self.fisher = made.parts, made.context, made.replay, made.fisher

    def build_extractor(self) -> None:
        """Fresh extractors and their embeddings, or those of another run."""
        path = self.settings.pure_learning.extractor
        if path:
            self.extractor = load_extractor(self.parts, path)
            return
        self.extractor = fresh_extractor(self.parts, self._start)
        if self.resumed and EXTRACTOR in self.plan.stage_steps:
            restore(self.extractor.learnables, self.resumed.tree["weights"])

    def _start(self, concept: Concept) -> Tensor:
        """Vectors that stand for the class word, not for the concept yet."""
        with self.processes.main_first():
            return class_states(self.parts, concept, latents_of(concept, self.plan.pictures, self.latents))

    def build_student(self) -> None:
        """A fresh student; its embeddings start as the extractor's."""
        self.student = student = fresh_student(self.parts, self.extractor, self._start)
        start_from_weights(self.parts, student)
        if self.resumed and STUDENT in self.resumed.tree["stages"]:
            restore(student.learnables, self.resumed.tree["weights"])
        self.average = Average(student.learnables, self.settings.optimizer.ema_decay)
        if self.resumed:
            self.average.load_state(self.resumed.tree.get("average"))

    # The stages

    def extractor_stage(self) -> Stage:
        """Stage 1, ready to train or to continue."""
        return self._stage(self.extractor)

    def student_stage(self) -> Stage:
        """Stage 2, ready to train or to continue."""
        return self._stage(self.student)

    def train_extractor(self) -> None:
        """Trains stage 1, if the run has it, to its end; saves the extractor and shows what it learned."""
        if EXTRACTOR not in self.plan.stage_steps:
            return
        stage = self.extractor_stage()
        self._run(stage)
        stage.take()
        with self.processes.main_first():
            if self.processes.main:
                files = {save_extractor(self.parts, self.extractor): EXTRACTOR}
                self.listeners.tell(Listener.saved, files, stage.done)
            if self.monitor and not (self.resumed and STUDENT in self.resumed.tree["stages"]):
                self.monitor.sheets.extractor(self.extractor.branch, stage.steps)

    def train_student(self) -> list[Path]:
        """Trains stage 2 to its end; the main process saves the results. Returns their files."""
        stage = self.student_stage()
        if stage.done == stage.first:
            with self.processes.main_first():
                self.listeners.tell(Listener.student_begins, self.student.shown, stage)
        self._run(stage)
        stage.take()
        if not self.processes.main:
            return []
        self.average.take()
        about_data = data_metadata(self.plan.pictures, self.plan.size)
        files = save_student(self.parts, self.student, stage.done, about_data=about_data)
        vectors = {"with its vectors": self.student.branch} if self.student.taught_word else {}
        rows = self.monitor.sheets.student(self.student.shown, stage, vectors) if self.monitor else []
        picture = own_thumbnail(self.settings) or (preview_of(rows) if rows else None)
        beside = save_preview(self.parts, files, picture) if picture else []
        self.listeners.tell(Listener.student_finished, self.parts, self.student.shown, files)
        for look in self.looks:
            with self.listeners.harmless(look.what.removeprefix("the "), f"{look.what} could not be made"):
                look(self)
        self.listeners.tell(Listener.saved, files, stage.done)
        note_finished(self.settings.saving, self.plan.stage_steps[STUDENT], shaping(self.plan), [*files, *beside])
        self.states.finish(self.settings.saving.save_state or self.settings.saving.save_state_on_train_end)
        return [*files, *beside]

    @property
    def ingredients(self) -> Ingredients:
        """What stages are built from, once the run is prepared."""
        return Ingredients(self.plan, self.parts, self.processes, self.latents, self.context, self.replay, self.fisher)

    def _stage(self, learned: Learned) -> Stage:
        stage, name = make_stage(learned, self.ingredients), learned.stage
        if self.resumed and name in self.resumed.tree["stages"]:
            stage.load_state(self.resumed.tree["stages"][name])
        elif self.resumed:
            stage.done = max(stage.first, self.resumed.position.done.get(name, 0))
        return stage

    def progress(self, name: str) -> Progress:
        """A bar for slow work; the command `stop` ends it after any round."""

        def over(items: Iterable[T]) -> Iterator[T]:
            for item in bar_over(name)(items) if self.monitor else items:
                yield item
                if STOP in self._asked():
                    raise KeyboardInterrupt

        return over

    def _asked(self) -> frozenset[str]:
        """The commands of other programs; only the main process reads them."""
        return self.control.asked() if self.processes.main else frozenset()

    def _run(self, stage: Stage) -> None:
        """Trains the stage to its end, saving on the way."""
        with self.stop.at_end_of_step(), self.listeners.stage(stage):
            while stage.done < stage.steps:
                begin = time.perf_counter()
                row = self.step(stage)
                if stage.name == STUDENT and "skipped" not in row:
                    self.average.step()
                asked = self._asked()
                stopping = self.processes.any(self.stop.made or STOP in asked)
                with self.processes.main_first():  # if one ended, all would
                    self._after_step(stage, row, begin, asked | {STOP} if stopping else asked)
                if stopping:
                    raise Interrupted(
                        f"Stopped after step {stage.done} of {stage.steps} of the {stage.name}. Everything is saved. "
                        "Run the same command with --resume auto to continue."
                    )

    def _after_step(self, stage: Stage, row: dict[str, Any], begin: float, asked: frozenset[str]) -> None:
        """Measures, shows and saves what is due or requested.

        Args:
            row: of the log.
            begin: the step's start, by `time.perf_counter`.
            asked: commands; with "stop", this is the last step for now, no matter who asked.
        """
        if self.processes.main and stage.name == STUDENT and self.validation.due(stage.done, stage.steps):
            with self._shown(stage):
                row["validation"] = self.validation.of(self.parts, self.student.shown)
        row["it_s"] = 1 / (seconds := time.perf_counter() - begin)
        self.listeners.tell(Listener.step_made, row, seconds)
        if self.processes.main:
            self._save_on_the_way(stage, asked)
            self.control.obeyed(asked)

    def step(self, stage: Stage) -> dict[str, Any]:
        """A step of the stage; if memory runs out and auto_fit is set, repeats it with less memory."""
        while True:
            try:
                return stage.step()
            except OutOfMemory:
                where = f"Stage {stage.name}, step {stage.done + 1}"
            # Outside the handler, whose exception keeps every tensor of the failed step alive.
            settings, taken = step_down(self.settings, self.parts.model, where)
            self.settle(settings)
            with self.processes.main_first():
                if self.processes.main:
                    self._write_settings()
            branches = self._learned(stage).branches
            stage.settle(settings.optimizer, scheduler_of(stage.objective, self.parts, branches, self.context))
            say(f"{where}: out of GPU memory; continuing with {taken}.")

    def _learned(self, stage: Stage) -> Learned:
        """What the stage trains."""
        return self.student if stage.name == STUDENT else self.extractor

    def _save_on_the_way(self, stage: Stage, asked: frozenset[str]) -> None:
        """Saves what is due after a step; the state comes last, so that a run killed in between repeats the rest."""
        if stage.name == STUDENT:
            self._save_student_on_the_way(stage, asked)
        else:
            self._save_extractor_on_the_way(stage, asked)
        due = stage.done % self.settings.saving.save_state_every_n_steps == 0 or stage.done == stage.steps
        if due or asked & {STOP, SAVE}:
            self._save_state(stage)

    def _save_extractor_on_the_way(self, stage: Stage, asked: frozenset[str]) -> None:
        if not asked & {SAMPLE, SAVE}:
            return
        with stage.shown():
            if SAMPLE in asked and self.monitor:
                self.monitor.sheets.extractor(self.extractor.branch, stage.done)
            if SAVE in asked:
                files = {save_extractor(self.parts, self.extractor): EXTRACTOR}
                self.listeners.tell(Listener.saved, files, stage.done)

    def _save_student_on_the_way(self, stage: Stage, asked: frozenset[str]) -> None:
        self._keep_if_best(stage)
        if stage.done == stage.steps:
            return
        if self.monitor and (SAMPLE in asked or (STOP not in asked and self.monitor.sheets.due(stage.done))):
            with self._shown(stage):
                self.monitor.sheets.student(self.student.shown, stage)
        if SAVE in asked or self.keeping.due(stage.done):
            self._save_student(stage, AT_STEP)
            self.keeping.state(stage.done, state_of(self.plan, stage, self._learned(stage), self.average))
            self.keeping.drop_older(stage.done)

    def _keep_if_best(self, stage: Stage) -> None:
        if self.settings.saving.save_best_n and self.validation.due(stage.done, stage.steps):
            best = self.keeping.best(read_log(self.log.path))
            if stage.done in best:
                self._save_student(stage, BEST)
            self.keeping.drop_worse(best)

    def _save_student(self, stage: Stage, kind: str) -> None:
        """Saves the student's files after the last step; `kind` in their names says why."""
        about_data = data_metadata(self.plan.pictures, self.plan.size)
        with self._shown(stage):
            files = save_student(self.parts, self.student, stage.done, f"{kind}{stage.done:08d}", about_data)
        self.listeners.tell(Listener.saved, files, stage.done)

    @contextmanager
    def _shown(self, stage: Stage) -> Iterator[None]:
        """Inside, the student is as if this step were the last: the result of its optimizer and average."""
        with stage.shown(), self.average.shown():
            yield

    def _save_state(self, stage: Stage) -> None:
        state = state_of(self.plan, stage, self._learned(stage), self.average)
        self.listeners.tell(Listener.state_saved, self.states.save(state))
