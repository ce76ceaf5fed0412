"""What a step down after out of memory replaces: the one configuration, for all of its readers."""

import gc
import weakref

import torch

from library.training.run import Run
from tests.helpers.runs import Calling


def test_after_a_step_down_nobody_holds_the_settings_that_it_replaced(plan_of, monkeypatch):
    run, stages = Run(plan_of(method="lora", auto_fit=True)), []
    run.listeners.add([Calling(stage_begun=stages.append)])
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
    (stage,) = stages
    assert run.settings.model.checkpointed_blocks == "all"
    assert stage.settings is run.settings.optimizer
    gc.collect()
    assert [one() for one in before] == [None] * 3
