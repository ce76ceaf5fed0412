"""The monitor of a run, which its main process alone has: those who listen, and what can be asked for a result."""

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
from library.training.pace import EndOfStage, PaceWarning
from library.training.report_page import Report
from library.training.step_listeners import PhaseTimes, ProgressBar, SkippedSteps, StatusFile, StepLog
from library.training.student_checks import FileCheck, WeakStudent


class NetworkLayers(Listener):
    """Says which layers have a LoRA, for `network_verbose`."""

    def prepared(self, parts: Attached) -> None:
        """Says it, if that is wished for."""
        shape = parts.settings.network
        for name in parts.network.layers if shape.network_verbose else ():
            say(f"LoRA on {name}: rank {rank_in(shape.ranks, name)}, alpha {shape.network_alpha:g}")


class Monitor:
    """Begins log and status, or continues them, and from then on tells the user of the run.

    Args:
        listeners: who hears of the run; the monitor's are added to them, in the order in which they hear of it.
        done: steps of each stage that a resumed run continues from; None: a new run.
        planned: seconds of a step of each stage, where they were predicted for the GPU that makes them.

    Attributes:
        log: its rows can be read while the run trains.
        sheets: draws what it is asked to.
        report: what it shows can be added to.
    """

    def __init__(
        self, plan: Plan, listeners: Listeners, done: dict[str, int] | None, planned: Mapping[str, float]
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
                EndOfStage(),
                PaceWarning(planned, on_card=device.type == "cuda"),
                NetworkLayers(),
                WeakStudent(self.log),
                FileCheck(plan.samples[0].text, listeners),
                self.sheets,
                self.report,
            ]
        )
