"""Losses of the weights themselves, and whole weights that learn, each compared with its definition."""

import math

import pytest
import torch
from safetensors.torch import load_file

from library.adapters.extraction import extracted
from library.adapters.penalties import FisherChange, SquaredChange
from library.config.files import read_settings
from library.errors import ConfigError
from library.flow import interpolate, velocity_target
from library.predictions import COMPLETE, STUDENT, learned
from library.report.log import read_log
from library.training.run import Run
from library.training.update import stochastically_rounded
from tests.helpers.penalties import total
from tests.helpers.runs import layers_by_name, ready
from tests.helpers.tiny import tiny_transformer

pytestmark = pytest.mark.usefixtures("shared_cache")

MODEL = {"pretrained_model_name_or_path": "m"}


def test_a_stronger_l2_anchor_gives_a_shorter_change(plan_of, tmp_path):
    lengths = []
    for weight in (0.0, 100.0):
        run = Run(plan_of(method="l2_anchor", l2_anchor_weight=weight, output_dir=str(tmp_path / str(weight))))
        run.train()
        lengths.append(float(total(SquaredChange(layers_by_name(run)))))
    assert lengths[1] < 0.9 * lengths[0]
    row = read_log(run.log.path)[-1]
    assert row["loss"] > row["concept"] + 50.0 * row["l2_anchor"] > row["concept"]


# Elastic weight consolidation


def test_ewc_keeps_what_the_pretrained_pictures_depend_on(plan_of, tmp_path):
    values = []
    for weight in (1e-6, 100.0):
        given = {"ewc_lambda": weight, "ewc_fisher_samples": 3, "output_dir": str(tmp_path / str(weight))}
        run = Run(plan_of(method="ewc", **given))
        run.train()
        values.append(float(total(FisherChange(layers_by_name(run), run.fisher))))
    assert values[1] < 0.9 * values[0]


# DreamBooth


def test_dreambooth_is_full_fine_tuning_step_for_step(plan_of):
    """Compared with the same layers of a plain transformer and AdamW, in a training loop written here."""
    given = {"method": "dreambooth", "optimizer_type": "AdamW", "learning_rate": 1e-3, "prior_loss_weight": 0.0}
    run = ready(plan_of(**given, max_grad_norm=0.0, max_train_steps=3))
    stage = run.student_stage()
    theirs = tiny_transformer().requires_grad_(False)
    learning = [theirs.get_submodule(name).weight.requires_grad_() for name in run.parts.network.layers]
    before = [weight.detach().clone() for weight in learning]
    optimizer = torch.optim.AdamW(learning, lr=1e-3, weight_decay=0.0)
    stage.optimizer.param_groups[0]["weight_decay"] = 0.0  # theirs pulls weights to 0, ours to the pretrained ones
    for step in range(3):
        row, scene = stage.step(), stage.scenes.reference(step)
        prediction = theirs(
            hidden_states=interpolate(scene.image, scene.noise, scene.sigma),
            timestep=scene.sigma * 1000,
            encoder_hidden_states=scene.prompts[COMPLETE].context,
            pooled_projections=scene.prompts[COMPLETE].pooled,
            return_dict=False,
        )[0]
        loss = torch.nn.functional.mse_loss(prediction, velocity_target(scene.image, scene.noise))
        assert row["loss"] == pytest.approx(loss.item(), rel=1e-4)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    changes = [layer.adapters["student"].weight for layer in run.parts.network.layers.values()]
    starts = zip(changes, learning, before, strict=True)
    ours, wanted = zip(*((change.flatten(), (w.detach() - b).flatten()) for change, w, b in starts), strict=True)
    assert (torch.cat(ours) - torch.cat(wanted)).norm() < 0.02 * torch.cat(wanted).norm()


@pytest.mark.parametrize("penalty", ["none", "l2_anchor_weight", "ewc_lambda"])
def test_steps_inside_the_backward_pass_are_the_same_steps(plan_of, penalty):
    given = {} if penalty == "none" else {penalty: 10.0, "ewc_fisher_samples": 3}
    changes = []
    for fused in (False, True):
        settings = {"method": "dreambooth", "optimizer_type": "AdamW", "fused_backward_pass": fused, **given}
        run = ready(plan_of(**settings, max_grad_norm=0.0, overwrite=True))
        stage = run.student_stage()
        rows = [stage.step() for _ in range(3)]
        assert all(weight.grad is None for weight in run.parts.network.parameters("student"))
        changes.append(torch.cat([weight.flatten() for weight in run.parts.network.parameters("student")]))
    assert rows[-1]["grad_norm"] > 0 and rows[0]["loss"] != rows[2]["loss"]
    assert (changes[0] - changes[1]).norm() < 0.02 * changes[0].norm()


def test_steps_inside_the_backward_pass_leave_a_weight_alone_whose_gradient_is_nan_or_infinite(plan_of):
    run = ready(plan_of(method="dreambooth", optimizer_type="AdamW", fused_backward_pass=True, overwrite=True))
    stage, (harmed, *others) = run.student_stage(), run.parts.network.parameters("student")
    before = [weight.detach().clone() for weight in (harmed, *others)]
    hook = harmed.register_hook(lambda gradient: gradient * float("nan"))
    row = stage.step()
    assert "the gradient is nan, of " in row["skipped"] and "loss" not in row and stage.done == 1
    assert torch.equal(harmed, before[0]) and harmed.grad is None
    assert any(not torch.equal(*pair) for pair in zip(others, before[1:], strict=True))
    hook.remove()
    assert math.isfinite(stage.step()["grad_norm"]) and not torch.equal(harmed, before[0])
    assert all(weight.isfinite().all() for weight in (harmed, *others))


def test_stochastic_rounding_is_right_on_average_and_to_a_neighbour():
    value = torch.full((200_000,), 1.0 + 0.3 * 2**-7)  # bf16 has steps of 2^-7 here
    rounded = stochastically_rounded(value, torch.Generator().manual_seed(0)).float()
    assert set(rounded.unique().tolist()) == {1.0, 1.0 + 2**-7}
    assert abs(float((rounded - value).mean())) < 4 * 2**-7 / math.sqrt(len(value))
    exact = torch.tensor([0.0, -1.5, 2.0**-20, -3.0])
    assert torch.equal(stochastically_rounded(exact, torch.Generator().manual_seed(0)).float(), exact)
    assert torch.equal(value.bfloat16().float(), torch.ones_like(value)), "to the nearest, all of it would be lost"


def test_changes_in_bf16_learn_as_those_in_float32(plan_of):
    changes = []
    for full_bf16 in (False, True):
        run = ready(plan_of(method="dreambooth", full_bf16=full_bf16, learning_rate=1e-3, overwrite=True))
        stage = run.student_stage()
        for _ in range(4):
            stage.step()
        weights = run.parts.network.parameters("student")
        assert weights[0].dtype is (torch.bfloat16 if full_bf16 else torch.float32)
        changes.append(torch.cat([weight.flatten().float() for weight in weights]))
    assert torch.cosine_similarity(*changes, dim=0) > 0.95


def test_the_extracted_loras_error_is_the_dropped_singular_values():
    for shape in ((12, 20), (20, 12)):
        change = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        singular = torch.linalg.svdvals(change)
        lora = extracted(change, 5)
        assert lora.rank == 5 and lora.alpha == 5
        torch.testing.assert_close((change - lora.delta()).norm(), singular[5:].norm(), rtol=1e-4, atol=0)
        torch.testing.assert_close(extracted(change, 99).delta(), change, rtol=1e-3, atol=1e-4)
    assert not extracted(torch.zeros(4, 6), 2).delta().any(), "no change is no LoRA, and no NaN"


def test_the_saved_transformer_is_the_student_and_the_lora_loads(plan_of, capsys):
    run = Run(plan_of(method="dreambooth", learning_rate=1e-2, network_dim=8, save_precision="float"))
    files = run.train()
    (whole,) = [path for path in files if path.name == "tiny_transformer.safetensors"]
    theirs = tiny_transformer(seed=7)
    theirs.load_state_dict(load_file(whole))
    stage = run.student_stage()
    scene = stage.scenes.reference(0)
    v = stage.branches.predict(scene, stage.scenes.replay(0))
    prediction = theirs(
        hidden_states=scene.x_t,
        timestep=scene.sigma * 1000,
        encoder_hidden_states=scene.prompts[COMPLETE].context,
        pooled_projections=scene.prompts[COMPLETE].pooled,
        return_dict=False,
    )[0]
    torch.testing.assert_close(prediction, v[learned(STUDENT, COMPLETE)], rtol=1e-3, atol=1e-3)
    shown = capsys.readouterr()
    assert "tiny.safetensors: loads in ComfyUI, reForge, Forge" in shown.out + shown.err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"gradient_accumulation_steps": 2}, "can't be accumulated"),
        ({"mixed_precision": "fp16"}, "fp16 needs"),
        ({"optimizer_type": "Prodigy"}, "Prodigy needs all weights"),
        ({"base_quantization": "int8"}, "base_quantization would round"),
        ({"full_bf16": True, "fused_backward_pass": False}, "full_bf16 needs fused_backward_pass"),
    ],
)
def test_what_dreambooth_can_not_do_is_reported(given, said):
    with pytest.raises(ConfigError, match=said):
        read_settings(None, {**MODEL, "method": "dreambooth", **given})
