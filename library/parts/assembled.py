"""A stage put together, the same in a run and in the count of one: what is minimised, by which passes, what learns."""

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
        branches: run the passes that the objective reads.
        learnables: all that learns; everything else is frozen.
    """

    objective: Objective
    branches: DualBranchScheduler
    learnables: tuple[Learnable, ...]

    @property
    def prompts(self) -> set[str]:
        """The prompts that the objective's predictions read."""
        return {reading.prediction.prompt for reading in self.objective.readings}


def assemble(learned: Learned, parts: Attached, has_reg: bool, context: Context | None = None) -> Assembled:
    """Puts the extractor's or the student's stage together, and freezes what does not learn in it.

    Args:
        has_reg: whether there are regularisation pictures.
        context: see `scheduler_of`.
    """
    objective = objective_of(learned.stage, parts.settings, has_reg)
    freeze_all_but(learned.learnables, learned.held, parts.network)
    branches = scheduler_of(objective, parts, learned.branches, context)
    return Assembled(objective, branches, learned.learnables)
