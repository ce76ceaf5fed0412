"""The listeners of a run's main process, which are notified of what happens. Other processes have none.

The run reports each event once, in every process. A listener has one subject and the hooks that it needs, and never
changes the training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from library.dual_branch_scheduler import Branch
from library.errors import gpu_error, in_words, lacks_memory, memory_error
from library.parts.parts import Attached
from library.preflight.plan import Plan
from library.report.galleries import Gallery
from library.report.page import Section
from library.terminal import say
from library.training.stage import Stage

Given = ParamSpec("Given")
Finished = TypeVar("Finished", contravariant=True)


class Look(Protocol[Finished]):
    """Looks at a run once its student is finished; `what` names its result in errors, such as "the audit"."""

    what: str

    def __call__(self, run: Finished, /) -> object:
        """Looks at the run."""


class Listener:
    """The events of a run; here, every hook does nothing."""

    def phase_begun(self, name: str) -> None:
        """A kind of work has started, maybe inside another one."""

    def phase_ended(self) -> None:
        """The phase that started last is over, successfully or not."""

    def context_learned(self, seconds: float) -> None:
        """The context vectors are ready; learning them took this long, in this or an earlier run."""

    def prepared(self, parts: Attached) -> None:
        """Everything for training is ready; the transformer has its adapters."""

    def settled(self, plan: Plan, parts: Attached) -> None:
        """Different settings are in force from now on."""

    def stage_begun(self, stage: Stage) -> None:
        """The stage will train now."""

    def stage_ended(self) -> None:
        """The stage has stopped training, successfully or not."""

    def student_begins(self, branch: Branch, stage: Stage) -> None:
        """The student has not learned yet; its stage will now train it for the first time."""

    def step_made(self, row: dict[str, Any], seconds: float) -> None:
        """A step was made or skipped; `row` is its line of the log."""

    def end_predicted(self, at: float) -> None:
        """The run will end at about this time, in seconds since the epoch."""

    def sheet_drawn(self, kind: str, gallery: Gallery, path: Path) -> None:
        """A contact sheet of this kind was drawn into that file."""

    def strengths_drawn(self, gallery: Gallery) -> None:
        """The sheet of the LoRA's strengths was drawn."""

    def saved(self, files: Mapping[Path, str], step: int) -> None:
        """Files of the student, or others for the user, were written."""

    def state_saved(self, folder: Path) -> None:
        """The run can be resumed from this state."""

    def student_finished(self, parts: Attached, branch: Branch, files: Mapping[Path, str]) -> None:
        """The student has made its last step and was saved; layouts by file."""

    def file_checked(self, path: Path, line: str) -> None:
        """A saved file was read back; the line says where it loads."""

    def section_made(self, section: Section) -> None:
        """The report has a new section."""

    def ended(self, error: BaseException | None) -> None:
        """The run has ended, with this error; None: successfully."""


class Listeners:
    """The listeners of a run, notified in order; none by default."""

    def __init__(self) -> None:
        self._members: list[Listener] = []

    def add(self, members: Iterable[Listener]) -> None:
        """Adds these after the existing ones."""
        self._members += members

    def tell(self, hook: Callable[Concatenate[Any, Given], None], *given: Given.args, **named: Given.kwargs) -> None:
        """Notifies all of them: `tell(Listener.saved, files, step)`."""
        for member in self._members:
            getattr(member, hook.__name__)(*given, **named)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Inside, a phase of this kind runs.

        Raises:
            TrainingError: out of memory, and nothing inside handled it; or the GPU is gone.
        """
        self.tell(Listener.phase_begun, name)
        try:
            yield
        except Exception as error:
            if lacks_memory(error):
                raise memory_error(name) from error
            if broken := gpu_error(name, error):
                raise broken from error
            raise
        finally:
            self.tell(Listener.phase_ended)

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[None]:
        """Inside, the stage trains."""
        self.tell(Listener.stage_begun, stage)
        try:
            with self.phase(stage.name):
                yield
        finally:
            self.tell(Listener.stage_ended)

    @contextmanager
    def to_the_end(self) -> Iterator[None]:
        """Wraps the whole run, and reports how it ended."""
        error: BaseException | None = None
        try:
            yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            self.tell(Listener.ended, error)

    @contextmanager
    def harmless(self, name: str, failed: str, then: str = "The run continues.") -> Iterator[None]:
        """Inside, a phase that only looks: if it fails, that is reported, and the run continues.

        Args:
            failed: what failed.
            then: what happens instead.
        """
        try:
            with self.phase(name):
                yield
        except Exception as error:
            say(f"WARNING: {failed} ({in_words(error)}). {then}")
