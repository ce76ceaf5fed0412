"""The monitor of a run, only in its main process: its listeners, and those of them that give results."""

from __future__ import annotations

from collections.abc import Mapping

from library.adapters.network import rank_in
from library.parts.parts import Attached
from library.preflight.plan import Plan
from library.report.log import RunLog
from library.report.phases import Phases
from library.report.status import Status, read_status
from library.report.tracking import tracking_of
from library.terminal import say
from library.training.contact_sheets import ContactSheets
from library.training.listeners import Listener, Listeners
from library.training.pace import EndOfStage, PaceWarning, StepsAfter
from library.training.report_page import Report
from library.training.step_listeners import PhaseTimes, ProgressBar, SkippedSteps, StatusFile, StepLog
from library.training.student_checks import FileCheck, WeakStudent


class NetworkLayers(Listener):
    """Lists the layers that have a LoRA, for `network_verbose`."""

    def prepared(self, parts: Attached) -> None:
        """Lists them, if the setting asks for it."""
        shape = parts.settings.network
        for name in parts.network.layers if shape.network_verbose else ():
            say(f"LoRA on {name}: rank {rank_in(shape.ranks, name)}, alpha {shape.network_alpha:g}")


class Monitor:
    """Starts or continues log and status, and then keeps the user informed about the run.

    Args:
        listeners: of the run; the monitor's are added, in the order in which they are notified.
        done: steps of each stage that a resumed run continues from; None: a new run.
        planned: seconds per step of each stage, if predicted for the GPU in use.
        after: see `EndOfStage`.

    Attributes:
        log: its rows can be read during training.
        sheets: draws sheets on request.
        report: more sections can be added.
    """

    def __init__(
        self,
        plan: Plan,
        listeners: Listeners,
        done: dict[str, int] | None,
        planned: Mapping[str, float],
        after: StepsAfter,
    ) -> None:
        folder, device = plan.settings.output_dir, plan.parts.model.device
        before = read_status(folder).get("phases", []) if done is not None else []
        self.log = RunLog(folder, plan.stage_steps, done, tracking_of(plan.settings))
        phases = Phases(device, before)
        status = Status(folder, plan.settings.saving.output_name, plan.stage_steps)
        self.report = Report(plan, self.log, status, phases, done)
        self.sheets = ContactSheets(plan, listeners)
        status.set(activity="start")
        listeners.add(
            [
                StepLog(self.log),
                PhaseTimes(phases),
                StatusFile(status, folder, phases),
                ProgressBar(),
                SkippedSteps(),
                EndOfStage(listeners, after),
                PaceWarning(planned, on_card=device.type == "cuda"),
                NetworkLayers(),
                WeakStudent(self.log),
                FileCheck(plan.samples[0].text, listeners),
                self.sheets,
                self.report,
            ]
        )
