"""Which objective and branches a stage has: the same for a run and for the count of one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from library.adapters.files import load_lora
from library.config.settings import Settings
from library.dual_branch_scheduler import Branch, DualBranchScheduler
from library.methods import METHODS
from library.methods.penalties import FisherChange, Overlap, Penalty, SquaredChange
from library.objectives import EXTRACTOR, REPLAYED, Objective
from library.parts.context import Context
from library.parts.parts import STUDENT_ADAPTER, Attached


def objective_of(stage: str, settings: Settings, has_reg: bool) -> Objective:
    """What a stage minimises, with or without regularisation pictures."""
    method = METHODS[settings.method.method]
    return method.extractor(settings) if stage == EXTRACTOR else method.student(settings, has_reg)


def penalties_of(
    stage: str, settings: Settings, parts: Attached, fisher: Mapping[str, Tensor] | None
) -> list[tuple[str, float, Penalty]]:
    """What a stage adds to its objective for the weights themselves, each with name and weight.

    Args:
        fisher: see `library.prepare.fisher`; None if no penalty needs it.
    """
    if stage == EXTRACTOR or not _weighted(settings):
        return []
    layers = {name: layer.adapters[STUDENT_ADAPTER] for name, layer in parts.network.layers.items()}
    kinds = {
        "l2_anchor": lambda: SquaredChange(layers),
        "ewc": lambda: FisherChange(layers, fisher),
        "orthogonal": lambda: Overlap(layers, _earlier(settings, len(parts.model.blocks))),
    }
    return [(name, weight, kinds[name]()) for name, weight in _weighted(settings).items()]


def _earlier(settings: Settings, blocks: int) -> dict[str, list[Tensor]]:
    """For each layer, the input-side matrices of earlier concepts' LoRAs."""
    found: dict[str, list[Tensor]] = {}
    for path in settings.method.previous_loras:
        for name, weights in load_lora(path, blocks).items():
            found.setdefault(name, []).append(weights.down.float())
    return found


def needs_fisher(settings: Settings) -> bool:
    """Whether a penalty reads the Fisher information."""
    return "ewc" in _weighted(settings)


def _weighted(settings: Settings) -> dict[str, float]:
    return {name: one for name, one in METHODS[settings.method.method].penalties(settings).items() if one > 0}


def learns_whole_weights(settings: Settings) -> bool:
    """Whether the student is a change of whole weights, and no LoRA."""
    return METHODS[settings.method.method].student_weights == "full"


def makes_fused_steps(settings: Settings) -> bool:
    """Whether weights make their steps inside the backward pass."""
    return learns_whole_weights(settings) and settings.method.fused_backward_pass


def has_extractor(settings: Settings) -> bool:
    """Whether the method knows an extractor, trained or not."""
    return METHODS[settings.method.method].extractor is not None


def reads_replay(settings: Settings, stages: Iterable[str], has_reg: bool) -> bool:
    """Whether a stage's losses, or the Fisher information, look at pictures that the pretrained model draws."""
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
        context: its vectors stand in prompts that have places for them, whichever branch predicts.
    """
    if context is not None:
        branches = {name: context.beside(branch) for name, branch in branches.items()}
    together = parts.settings.optimizer.batch_passes == "together"
    readings = objective.readings
    return DualBranchScheduler(parts.model, parts.network, parts.injector, branches, readings, together)
