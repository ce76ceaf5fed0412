"""An assembled stage, the same for a run and for its memory count: the objective, the passes, and what learns."""

from __future__ import annotations

from dataclasses import dataclass

from library.dual_branch_scheduler import DualBranchScheduler
from library.objectives import Objective
from library.parts.branching import objective_of, scheduler_of
from library.parts.context import Context
from library.parts.learnable import Learnable, freeze_all_but
from library.parts.learned import Learned
from library.parts.parts import Attached


@dataclass(frozen=True)
class Assembled:
    """A stage without its pictures.

    Args:
        branches: runs the passes that the objective reads.
        learnables: everything that learns; the rest is frozen.
    """

    objective: Objective
    branches: DualBranchScheduler
    learnables: tuple[Learnable, ...]

    @property
    def prompts(self) -> set[str]:
        """The prompts that the objective's predictions read."""
        return {reading.prediction.prompt for reading in self.objective.readings}


def assemble(learned: Learned, parts: Attached, has_reg: bool, context: Context | None = None) -> Assembled:
    """Assembles the extractor's or the student's stage, and freezes what does not learn in it.

    Args:
        has_reg: whether there are regularisation pictures.
        context: see `scheduler_of`.
    """
    objective = objective_of(learned.stage, parts.settings, has_reg)
    freeze_all_but(learned.learnables, learned.held, parts.network)
    branches = scheduler_of(objective, parts, learned.branches, context)
    return Assembled(objective, branches, learned.learnables)
