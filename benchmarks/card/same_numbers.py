"""Whether the card comes to the numbers of the CPU, on the small bundled model, and what it makes of few bits."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.card.scale import Scale, prepared
from library.chance import generator_for
from library.dual_branch_scheduler import PRETRAINED_BRANCH
from library.models import PromptBatch
from library.report.log import read_log
from library.training.run import Run

PRECISIONS = {"no": 1e-3, "bf16": 0.03, "fp16": 0.01}
"""How far velocities may be from those of the CPU in float32, as a share of their length."""
LOSSES = 0.02
"""How far the loss of a step may be from the CPU's."""
RESUMED = 1e-3
"""How far the weights of a resumed run may be from those of one that was never stopped."""
OPTIMIZERS = ("AdamW", "AdamW8bit", "PagedAdamW8bit", "Lion8bit")


def apart(one: Tensor, two: Tensor) -> float:
    """How far two tensors are apart, as a share of the second's length."""
    return float((one.float() - two.float()).norm() / two.float().norm().clamp_min(1e-12))


def velocities(scale: Scale) -> list[dict[str, Any]]:
    """A velocity of the pretrained model in each precision, against the CPU's in float32."""
    exact = _velocity(scale, "cpu", "no")
    rows = []
    for precision, most in PRECISIONS.items():
        error = apart(_velocity(scale, str(scale.device), precision), exact)
        rows.append({"precision": precision, "error": error, "allowed": most, "verdict": verdict(error <= most)})
    return rows


@torch.no_grad()
def _velocity(scale: Scale, device: str, precision: str) -> Tensor:
    output = str(scale.folder / "velocities")
    plan = scale.pocket_plan("pure", device=device, mixed_precision=precision, output_dir=output)
    parts, text = plan.parts, plan.texts()[0]
    parts.texts.prepare([text], iter)
    parts.attach()
    noise = torch.randn(1, *parts.model.latent_shape(64, 64), generator=generator_for(0, "card"))
    prompts = [PromptBatch.of([parts.texts[text]], [None])]
    return parts.velocity(PRETRAINED_BRANCH, noise, torch.tensor([0.6]), prompts).cpu()


def training(scale: Scale) -> list[dict[str, Any]]:
    """A short training in float32, here and on the CPU: the losses of its steps."""
    logs = {}
    for where, device in (("cpu", "cpu"), ("here", str(scale.device))):
        output = scale.folder / f"training, {where}"
        Run(scale.pocket_plan("pure", device=device, mixed_precision="no", output_dir=str(output))).train()
        logs[where] = [row for row in read_log(output / "log.jsonl") if "loss" in row]
    rows = []
    for one, two in zip(logs["here"], logs["cpu"], strict=True):
        error = abs(one["loss"] - two["loss"]) / abs(two["loss"])
        about = {"stage": one["stage"], "step": one["step"], "loss": one["loss"], "cpu": two["loss"]}
        rows.append({**about, "error": error, "allowed": LOSSES, "verdict": verdict(error <= LOSSES)})
    return rows


def resume(scale: Scale) -> list[dict[str, Any]]:
    """A run that is stopped half-way and resumed, against one in one go."""
    steps = 2 if scale.short else 4
    common = {"device": str(scale.device), "lr_scheduler": "constant", "save_state_on_train_end": True}
    whole, parts = (str(scale.folder / name) for name in ("resume, whole", "resume, in parts"))
    Run(scale.pocket_plan("lean", **common, max_train_steps=steps, output_dir=whole)).train()
    Run(scale.pocket_plan("lean", **common, max_train_steps=steps // 2, output_dir=parts)).train()
    going_on = {"max_train_steps": steps, "resume": "auto", "overwrite": False}
    Run(scale.pocket_plan("lean", **common, **going_on, output_dir=parts)).train()
    one, two = (_tensors(Path(folder)) for folder in (parts, whole))
    error = max(apart(one[name], two[name]) for name in two)
    return [{"what": "all weights", "error": error, "allowed": RESUMED, "verdict": verdict(error <= RESUMED)}]


def _tensors(folder: Path) -> dict[str, Tensor]:
    files = sorted(folder.glob("*.safetensors"))
    return {f"{path.name} {name}": one for path in files for name, one in load_file(path).items()}


def optimizers(scale: Scale) -> list[dict[str, Any]]:
    """Steps with optimizers in 8 bits beside AdamW: their losses, and how long they take."""
    rows = []
    for name in OPTIMIZERS[:2] if scale.short else OPTIMIZERS:
        settings = {"device": str(scale.device), "optimizer_type": name, "output_dir": str(scale.folder / name)}
        stage = prepared(scale.pocket_plan("lean", **settings, mixed_precision="bf16")).student_stage()
        seconds = []
        for _ in range(stage.steps):
            begin = time.perf_counter()
            row = stage.step()
            seconds.append(time.perf_counter() - begin)
        loss = row.get("loss", float("nan"))
        middle = 1000 * statistics.median(seconds)
        rows.append({"optimizer": name, "loss": loss, "ms": middle, "verdict": verdict(loss == loss)})
    return rows


def verdict(well: bool) -> str:
    """In a word."""
    return "as it should be" if well else "WRONG"
