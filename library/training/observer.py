"""What the user sees of a run while it goes on: bars, log, status, contact sheets, curves and the report.

The run says what happens; nothing in here changes what is trained, and no picture that can't be drawn costs a run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from library.adapters.layouts.known import LAYOUTS
from library.adapters.network import rank_in
from library.drawing.sheets import SheetMaker
from library.dual_branch_scheduler import Branch
from library.errors import StorageError, in_words, lacks_memory, memory_error
from library.objectives import STUDENT
from library.parts.parts import Attached
from library.preflight.plan import Plan
from library.report.log import RunLog, mean_of_end, read_log, write_csv
from library.report.page import Section, write_page
from library.report.phases import Phases
from library.report.plot import plot_log
from library.report.progress import StageBar, bar_over, say
from library.report.sheet import SheetRow
from library.report.status import Status, read_status
from library.report.tracking import tracking_of
from library.saving.keeping import saved_on_the_way
from library.saving.reload import ReloadCheck
from library.training.galleries import STRENGTHS, Gallery, galleries_of
from library.training.pace import Pace, why_slow
from library.training.sections import report_sections
from library.training.stage import Stage

WEAK_COSINE = 0.2
"""A mean cosine below this at the end of stage 2 means that the extractor taught the student little."""


@dataclass
class Drawing:
    """What has been drawn of a sheet."""

    rows: list[SheetRow] = field(default_factory=list)


class Observer:
    """Shows a run.

    Args:
        plan: of the run.

    Attributes:
        sections: of `report.html`, in order; see `library.report.page` for how to add one.
        galleries: the sheets that the report shows, by kind.
        files: what has been saved, each with the step it was saved at.
        planned: seconds of a step of each stage, where they were predicted for the card that makes them.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan, self.settings, self.parts = plan, plan.settings, plan.parts
        self.folder, self.name = plan.settings.output_dir, plan.settings.saving.output_name
        self.galleries: dict[str, Gallery] = {}
        self.files: dict[Path, int] = {}
        self.loads: dict[Path, str] = {}
        self.sections: list[Section] = report_sections(self)
        self.planned: dict[str, float] = {}
        self._pace, self._slow_said = Pace(), False
        self._bar: StageBar | None = None
        self._last_sheet = time.monotonic()

    # The run's begin and end

    def open(self, done: dict[str, int] | None) -> None:
        """Begins log and status, or goes on with them.

        Args:
            done: steps of each stage that a resumed run goes on from; None: a new run.
        """
        before = read_status(self.folder).get("phases", []) if done is not None else []
        self.log = RunLog(self.folder, self.plan.stage_steps, done, tracking_of(self.settings))
        self.phases = Phases(self.parts.model.device, before)
        if done is not None:
            self.galleries |= galleries_of(self.folder / "samples", done)
            self.files |= saved_on_the_way(self.folder, self.name)
        self.status = Status(self.folder, self.name, self.plan.stage_steps)
        self.status.set(activity="start")

    @contextmanager
    def to_the_end(self) -> Iterator[None]:
        """Inside, the run happens; however it ends, log, curves, report and status say so."""
        error: BaseException | None = None
        try:
            yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            if self._bar is not None:
                self._bar.close()
            self.log.close()
            self.status.end(error)
            self.draw()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """What happens inside is measured, and named in the status.

        Raises:
            TrainingError: the memory did not suffice, and nobody inside knew what to do.
        """
        outer = self.phases.now
        try:
            with self.phases.of(name):
                self.status.set(activity=name)
                yield
        except Exception as error:
            if lacks_memory(error):
                raise memory_error(name) from error
            raise
        finally:
            self.status.set(activity=outer, phases=self.measured())

    def measured(self) -> list[dict[str, Any]]:
        """Time and memory of every phase until now."""
        return [phase.as_dict() for phase in self.phases.measured()]

    def learned_context(self, seconds: float) -> None:
        """The context vectors are there; learning them took so long, in this run or before."""
        self.status.set(context_seconds=seconds)

    def progress(self, name: str) -> Any:
        """A bar over what is going to take its time."""
        return bar_over(name)

    # Stages

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[None]:
        """Inside, the stage trains."""
        self._bar, self._pace = StageBar(stage.name, stage.steps, stage.done), Pace(self.planned.get(stage.name))
        with self.phase(stage.name):
            yield
        self._bar.close()

    def step(self, row: dict[str, Any], seconds: float) -> None:
        """After every step, which took so many seconds."""
        row["it_s"] = 1 / seconds
        self.log.write(row)
        self.status.step(row, seconds)
        self._bar.step(row)
        if "skipped" in row:
            say(f"WARNING: stage {row['stage']}, step {row['step']} is skipped: {row['skipped']}.")
        slower = self._pace.slower(seconds)
        if slower and not self._slow_said:
            self._slow_said = True
            reason = why_slow(self.parts.model.device.type == "cuda")
            say(f"WARNING: a step of the {row['stage']} takes {slower}. {reason}")

    # Pictures

    def attach(self, parts: Attached) -> None:
        """The transformer is there: pictures can be drawn from now on."""
        self.sheets = SheetMaker(parts, self.plan.samples, self.plan.size)
        shape = self.settings.network
        for name in parts.network.layers if shape.network_verbose else ():
            say(f"LoRA on {name}: rank {rank_in(shape.ranks, name)}, alpha {shape.network_alpha:g}")

    def settle(self, plan: Plan, parts: Attached) -> None:
        """Other settings are in force from now on."""
        self.plan, self.settings, self.parts = plan, plan.settings, plan.parts
        self.sheets.parts = parts

    def sheet_of_extractor(self, branch: Branch, steps: int) -> None:
        """What stage 1 learned."""
        columns = {
            f"extractor of {concept}": replace(branch, default=adapter) for concept, adapter in branch.adapters.items()
        }
        self._sheet("extractor", f"Stage 1: the extractor after {steps} steps", columns, "extractor.png")

    def sheet_of_student(self, branch: Branch, stage: Stage) -> list[SheetRow]:
        """What the student has learned until now."""
        title = f"{self.name}: the student after {stage.done} of {stage.steps} steps"
        return self._sheet("student", title, {"student": branch}, f"student_{stage.done:06d}.png")

    def sheet_of_words(self, columns: Mapping[str, Any]) -> None:
        """The finished student with its vectors, and with the words that stand for them."""
        self._sheet("words", f"{self.name}: with our nodes, and with the words in their place", columns, "words.png")

    def _sheet(self, kind: str, title: str, columns: Mapping[str, Any], file: str) -> list[SheetRow]:
        """The rows of a sheet; none if it can't be drawn, which is said."""
        self._last_sheet = time.monotonic()
        path, prompts = self.folder / "samples" / file, self.settings.samples.sample_prompts
        with self._drawing(file) as drawing:
            if prompts:
                self.sheets.follow(prompts)
            drawing.rows = self.sheets.make(path, title, dict(columns), self.progress("sheet"))
        if drawing.rows:
            self.galleries[kind] = Gallery(title, ["pretrained", *columns], drawing.rows)
            self.log.picture(f"samples/{kind}", path)
            self.status.set(sheet=f"samples/{file}")
        return drawing.rows

    def sheet_due(self, done: int) -> bool:
        """Whether a sheet of the student is due after so many steps, or because enough minutes have passed."""
        steps, minutes = self.settings.samples.sample_every_n_steps, self.settings.samples.sample_every_n_minutes
        passed = (time.monotonic() - self._last_sheet) / 60
        return bool((steps and done % steps == 0) or (minutes and passed >= minutes))

    def sheet_of_strengths(self, branch: Branch) -> None:
        """The finished student at several strengths of its LoRA."""
        strengths = self.settings.samples.sample_strengths
        if not strengths:
            return
        title, path = f"{self.name}: strengths of the LoRA", self.folder / "samples" / "strengths.png"
        with self._drawing(path.name) as drawing:
            drawing.rows = self.sheets.strengths(path, title, branch, strengths)
        if drawing.rows:
            columns = ["pretrained", *(f"{strength:g}" for strength in strengths)]
            self.galleries[STRENGTHS] = Gallery(title, columns, drawing.rows)

    @contextmanager
    def _drawing(self, file: str) -> Iterator[Drawing]:
        """Inside, a sheet is drawn. If it can't be, that is said and the run goes on, but for a full disk."""
        drawing = Drawing()
        try:
            with self.phase("sheets"):
                yield drawing
        except StorageError:
            raise
        except Exception as error:  # pictures of a run must never cost the user the run
            say(f"WARNING: the sheet {file} could not be drawn ({in_words(error)}). The run goes on without it.")
            self.parts.model.release_vae()

    # Files

    def saved(self, files: Mapping[Path, str], step: int) -> None:
        """Files of the student have been written, or any other that the user may want."""
        self.files |= dict.fromkeys(files, step)
        self.status.set(files=[path.name for path in files])
        self.draw()

    def saved_state(self, folder: Path) -> None:
        """The run can go on from there."""
        self.status.set(saved_state=str(folder.relative_to(self.folder)), phases=self.measured())

    def check(self, files: Mapping[Path, str], parts: Attached) -> None:
        """Says of every LoRA file where it loads. Whatever goes wrong here, the files are saved."""
        if not set(files.values()) & set(LAYOUTS):
            return
        try:
            with self.phase("check of the files"):
                check = ReloadCheck(parts, self.plan.samples[0].text)
                for path, layout in files.items():
                    if layout in LAYOUTS:
                        self.loads[path] = check.of(path, layout).line
                        say(self.loads[path])
        except Exception as error:  # a check must never cost the user a run
            say(f"WARNING: the saved files could not be checked ({in_words(error)}). They are kept.")

    def look(self, what: str, at_the_student: Callable[[], None]) -> None:
        """Lets something look at the finished student. Whatever goes wrong there, the files are saved.

        Args:
            what: it makes.
        """
        try:
            with self.phase(what.removeprefix("the ")):
                at_the_student()
        except Exception as error:  # nothing that only looks may cost the user a run
            say(f"WARNING: {what} could not be made ({in_words(error)}). The run goes on.")

    def say_if_weak(self) -> None:
        """A word about a student that the extractor taught little."""
        rows = [row for row in read_log(self.log.path) if row["stage"] == STUDENT]
        cosine = mean_of_end(rows, "cosine")
        if cosine is not None and cosine < WEAK_COSINE:
            say(
                f"The student ended at a mean cosine of {cosine:.2f} with the extractor's guidance, which is low: the "
                "extractor is weak. Give stage 1 more steps (extractor_train_steps), or raise its learning rate."
            )

    # What is made of the log

    def draw(self) -> None:
        """Draws curves and report anew. If that fails, the run goes on."""
        rows = read_log(self.log.path)
        try:
            write_csv(rows, self.folder / "log.csv")
            plot_log(rows, self.folder / "training.png")
            title = f"{self.name}: {', '.join(concept.trigger for concept in self.plan.config.concepts)}"
            write_page(self.folder / "report.html", title, self._lede(rows), self.sections)
            self.status.set(report="report.html")
        except Exception as error:  # pictures of a run must never cost the user the run
            say(f"WARNING: the report could not be written ({type(error).__name__}: {error}). The run goes on.")

    def _lede(self, rows: list[dict[str, Any]]) -> str:
        if not rows:
            return "No step has been made yet."
        stage, step = rows[-1]["stage"], rows[-1]["step"]
        return f"{step} of {self.plan.stage_steps.get(stage, step)} steps of the {stage}. {self.status.sentence()}"
