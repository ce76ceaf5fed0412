"""What a step down after out of memory replaces: the one configuration, for everybody who reads it."""

import gc
import weakref

import torch

from library.training.listeners import Listener
from library.training.run import Run
from library.training.stage import Stage


class Trained(Listener):
    """Keeps the stages that trained."""

    def __init__(self) -> None:
        self.stages: list[Stage] = []

    def stage_begun(self, stage: Stage) -> None:
        self.stages.append(stage)


def test_after_a_step_down_nobody_holds_the_settings_that_it_replaced(plan_of, monkeypatch):
    run, trained = Run(plan_of(method="lora", auto_fit=True)), Trained()
    run.listeners.add([trained])
    model, held = run.plan.parts.model, run.settings
    before = [weakref.ref(one) for one in (held, held.model, held.optimizer)]
    del held
    velocity = model.velocity

    def scarce(*given):
        if torch.is_grad_enabled() and len(model.base.recomputed) < len(model.blocks):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return velocity(*given)

    monkeypatch.setattr(model, "velocity", scarce)
    run.train()
    (stage,) = trained.stages
    assert run.settings.model.checkpointed_blocks == "all"
    assert stage.settings is run.settings.optimizer
    gc.collect()
    assert [one() for one in before] == [None] * 3
