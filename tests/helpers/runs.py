"""Runs of the tiny model: prepared up to the point that a test needs, stopped, and what they write."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from safetensors.torch import load_file

from library.errors import Interrupted
from library.preflight.plan import Plan
from library.training.listeners import Listener
from library.training.run import Run
from library.training.stage import Stage

NOTHING_OF_OURS = {
    "context_vectors": 0,
    "surroundings_weight": 0.0,
    "anchor_weight": 0.0,
    "extractor_anchor_weight": 0.0,
    "replay_images": 0,
    "guidance_against": "null",
}
PLAIN_LORA = {**NOTHING_OF_OURS, "eta": 0.0, "concept_embeddings": "none"}


class Calling(Listener):
    """A listener with these hooks: `Calling(stage_begun=stages.append)`."""

    def __init__(self, **hooks) -> None:
        for name, hook in hooks.items():
            assert hasattr(Listener, name), name
            setattr(self, name, hook)


def prepared(plan: Plan) -> Run:
    """A run with its caches filled."""
    run = Run(plan)
    run.open_log()
    run.prepare()
    return run


def before_stage_1(plan: Plan) -> Run:
    """A run with everything that stage 1 trains."""
    run = prepared(plan)
    run.build_extractor()
    return run


def ready(plan: Plan) -> Run:
    """A run with everything that both stages train, before its first step."""
    run = before_stage_1(plan)
    run.build_student()
    return run


def ready_for_stage_2(plan: Plan) -> Run:
    """A run that has finished stage 1, before stage 2."""
    run = before_stage_1(plan)
    run.train_extractor()
    run.build_student()
    return run


def trained(run: Run) -> Run:
    run.train()
    return run


def press_ctrl_c_after(monkeypatch, stage: str, step: int) -> None:
    """Makes the user press Ctrl-C during that step."""
    step_of = Stage.step

    def pressed(self):
        row = step_of(self)
        if (self.name, self.done) == (stage, step):
            os.kill(os.getpid(), signal.SIGINT)
        return row

    monkeypatch.setattr(Stage, "step", pressed)


def stopped_after(step: int, run: Run, monkeypatch, stage: str = "student") -> Run:
    """Trains a run until Ctrl-C stops it after a step; its message must say how to continue."""
    with monkeypatch.context() as patch:
        press_ctrl_c_after(patch, stage, step)
        with pytest.raises(Interrupted, match="resume auto"):
            run.train()
    return run


def layers_by_name(run: Run) -> dict:
    """The student's adapter of each layer."""
    return {name: layer.adapters["student"] for name, layer in run.parts.network.layers.items()}


def student_layers(run: Run) -> list:
    return list(layers_by_name(run).values())


def disturb(run: Run, std: float = 0.05) -> None:
    """Gives the student an effect."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for one in student_layers(run):
            one.up.normal_(std=std, generator=generator)


def student_file(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.folder / "tiny.safetensors")


def assert_equal_files(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert set(one) == set(two)
    assert [name for name in one if not torch.equal(one[name], two[name])] == []


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest difference, relative to the largest value of the same tensor in `other`."""
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max() / other[name].abs().max().clamp_min(1e-9)) for name in one)
