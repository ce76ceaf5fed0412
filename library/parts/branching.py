"""Which objective and branches a stage has, the same for a run and for its memory count."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from library.adapters.penalties import Penalty
from library.config.settings import Settings
from library.dual_branch_scheduler import Branch, DualBranchScheduler
from library.methods import method_of
from library.methods.method import Penalised, PenaltyTerm
from library.objectives import Objective
from library.parts.context import Context
from library.parts.parts import STUDENT_ADAPTER, Attached
from library.predictions import EXTRACTOR, REPLAYED


def objective_of(stage: str, settings: Settings, has_reg: bool) -> Objective:
    """The objective of a stage, with or without regularisation pictures."""
    method = method_of(settings)
    if stage != EXTRACTOR:
        return method.student(settings, has_reg)
    assert method.extractor is not None, f"{method.name} has no such stage"
    return method.extractor(settings)


def penalties_of(
    stage: str, settings: Settings, parts: Attached, fisher: Mapping[str, Tensor] | None
) -> list[tuple[str, float, Penalty]]:
    """The penalties on weights that a stage adds to its objective, each with name and weight.

    Args:
        fisher: see `library.prepare.fisher`; None if no penalty needs it.
    """
    wanted = [] if stage == EXTRACTOR else _weighted(settings)
    if not wanted:
        return []
    layers = {name: layer.adapter(STUDENT_ADAPTER) for name, layer in parts.network.layers.items()}
    student = Penalised(layers, len(parts.model.blocks), fisher or {})
    return [(one.name, one.weight, one.of(student)) for one in wanted]


def needs_fisher(settings: Settings) -> bool:
    """Whether a penalty reads the Fisher information."""
    return any(one.reads_fisher for one in _weighted(settings))


def _weighted(settings: Settings) -> list[PenaltyTerm]:
    return [one for one in method_of(settings).penalties(settings) if one.weight > 0]


def learns_whole_weights(settings: Settings) -> bool:
    """Whether the student is a change of whole weights, not a LoRA."""
    return method_of(settings).student_weights == "full"


def is_saved_as_it_is(settings: Settings) -> bool:
    """Whether the student is a plain LoRA, so that its file does exactly the same."""
    return not learns_whole_weights(settings) and method_of(settings).form(settings) is None


def makes_fused_steps(settings: Settings) -> bool:
    """Whether weights are updated inside the backward pass."""
    return method_of(settings).fuses_steps(settings)


def has_extractor(settings: Settings) -> bool:
    """Whether the method has an extractor, trained or not."""
    return method_of(settings).extractor is not None


def reads_replay(settings: Settings, stages: Iterable[str], has_reg: bool) -> bool:
    """Whether a stage's losses, or the Fisher information, use pictures that the pretrained model draws."""
    if needs_fisher(settings):
        return True
    readings = [reading for stage in stages for reading in objective_of(stage, settings, has_reg).readings]
    return any(reading.prediction.prompt in REPLAYED for reading in readings)


def scheduler_of(
    objective: Objective, parts: Attached, branches: Mapping[str, Branch], context: Context | None = None
) -> DualBranchScheduler:
    """Runs the passes that the objective reads.

    Args:
        branches: of the stage.
        context: its vectors are put into prompts that have places for them, in every branch.
    """
    if context is not None:
        branches = {name: context.beside(branch) for name, branch in branches.items()}
    together = parts.settings.optimizer.batch_passes == "together"
    readings = objective.readings
    return DualBranchScheduler(parts.model, parts.network, parts.injector, branches, readings, together)
