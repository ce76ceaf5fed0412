"""sd-scripts' options for the LoRA itself: its layers, ranks, dropouts, rates and the norm of its changes."""

import json
import math

import pytest
import torch

from library.adapters.files import load_lora, read_safetensors
from library.adapters.linear import Dropout, LowRank
from library.adapters.network import limit_norms
from library.config.files import read_settings
from library.errors import ConfigError
from library.predictions import BASE, COMPLETE, EXTRACTOR, STUDENT, Prediction
from library.report.log import read_log
from library.training.run import Run
from tests.helpers.runs import (
    PLAIN_LORA,
    assert_equal_files,
    ready,
    ready_for_stage_2,
    stopped_after,
    student_file,
    student_layers,
    trained,
)

pytestmark = pytest.mark.usefixtures("shared_cache")


def low_rank(rank: int = 4, dropout: Dropout = Dropout()) -> LowRank:  # noqa: B008
    generator = torch.Generator().manual_seed(0)
    one = LowRank(torch.nn.Linear(6, 5), rank, 2.0, dropout, generator)
    torch.nn.init.normal_(one.up, generator=generator)
    return one


# Layers and ranks


def ranks_of(run: Run) -> dict[str, int]:
    return {name: layer.adapters["student"].rank for name, layer in run.parts.network.layers.items()}


def test_kinds_have_separate_ranks_also_in_files(plan_of):
    """An unset kind has network_dim, and a kind set to 0 has no LoRA; kohya's file reads back the same."""
    args = ["x_attn_dim=3", "context_attn_dim=0", "x_mod_dim=2", "context_mlp_dim=0", "train_block_indices=0,2"]
    run = Run(plan_of(**PLAIN_LORA, network_args=args, network_dim=5, network_alpha=2.0))
    run.train()
    ranks = ranks_of(run)
    assert {name.split(".")[1] for name in ranks} == {"0", "2"}
    kinds = {name.split(".", 2)[2]: rank for name, rank in ranks.items() if ".0." in name}
    assert kinds == {
        **dict.fromkeys([f"attn.{one}" for one in ("to_q", "to_k", "to_v", "to_out.0")], 3),
        **dict.fromkeys([f"attn2.{one}" for one in ("to_q", "to_k", "to_v", "to_out.0")], 3),
        **dict.fromkeys(["ff.net.0.proj", "ff.net.2", "norm1_context.linear"], 5),
        "norm1.linear": 2,
    }
    weights = run.parts.network.weights("student")
    said = json.loads(read_safetensors(run.folder / "tiny.safetensors")[1]["ss_network_args"])
    assert said == {name: value for name, _, value in (one.partition("=") for one in args)}
    read = load_lora(run.folder / "tiny.safetensors", 3)
    assert set(read) == set(weights)
    for name, one in weights.items():
        torch.testing.assert_close(read[name].delta(), one.delta(), rtol=2e-2, atol=1e-5)


def settings_with(*args: str, **given):
    notices = []
    settings = read_settings(None, {"pretrained_model_name_or_path": "m", "network_args": list(args), **given}, notices)
    return settings.network, notices


@pytest.mark.parametrize(
    ("args", "given", "said"),
    [
        (["rank_dropot=0.1"], {}, 'network_args: "rank_dropot"'),
        (["rank_dropout"], {}, 'not of the form "name=value"'),
        (["rank_dropout=much"], {}, "rank_dropout is 'much'; it must be a number"),
        (["rank_dropout=1"], {}, "it must be at most 0.95"),
        (["dropout=0.1"], {}, "network_dropout"),
        (["x_attn_dim=1.5"], {}, "it must be a whole number"),
        (["emb_dims=[4,4,4,4,4,4]"], {}, "Remove emb_dims"),
        (["emb_dims=4"], {}, "it must be six whole numbers"),
        (["train_block_indices=1,x"], {}, "train_block_indices is "),
        (["train_block_indices=none"], {}, "train_block_indices is "),
        (["x_attn_dim=4"], {"target_modules": ["to_q"]}, "target_modules and x_attn_dim both"),
        ([f"{one}_dim=0" for one in ("x_attn", "x_mlp", "x_mod", "context_attn", "context_mlp", "context_mod")], {},
         "all six dims are 0"),
        (["x_attn_dim=4"], {"dim_from_weights": True, "network_weights": "a"}, "dim_from_weights and x_attn_dim both"),
    ],
)  # fmt: skip
def test_unsupported_network_args_are_reported(args, given, said):
    with pytest.raises(ConfigError) as error:
        settings_with(*args, **given)
    assert said in str(error.value) and "Traceback" not in str(error.value)


def test_network_args_without_effect_are_reported_and_may_be_a_single_text():
    network, notices = settings_with(
        "split_qkv=True", "conv_dim=4", "loraplus_text_encoder_lr_ratio=2", "train_t5xxl=False"
    )
    assert [f"{one} is ignored" in notices[0] for one in ("split_qkv=True", "conv_dim=4", "ratio=2")] == [True] * 3
    assert "train_t5xxl" not in notices[0] and network.ranks["add_q_proj"] == 16
    given = {"pretrained_model_name_or_path": "m", "network_args": "x_attn_dim=8"}
    assert read_settings(None, given).network.ranks["to_q"] == 8


def test_a_missing_block_is_reported_before_anything_is_loaded(plan_of):
    with pytest.raises(ConfigError, match="names block 3; this model has blocks 0 to 2"):
        plan_of(train_block_indices="1-3")


def test_verbose_lists_every_layer(plan_of, capsys):
    run = ready(plan_of(**PLAIN_LORA, network_args=["x_mlp_dim=2", "train_block_indices=1", "verbose=True"]))
    said = [line for line in "".join(capsys.readouterr()).splitlines() if "LoRA on " in line]
    assert len(said) == len(run.parts.network.layers)
    assert any("transformer_blocks.1.ff.net.2: rank 2, alpha 4" in line for line in said)


# Dropout


@pytest.mark.parametrize("dropout", [Dropout(inner=0.5), Dropout(ranks=0.5), Dropout(whole=0.5)])
def test_dropout_is_right_on_average_and_none_where_nothing_learns(dropout):
    one, x = low_rank(dropout=dropout), torch.randn(3, 2, 6)
    torch.manual_seed(0)
    kept = 0.5 if dropout.whole else 1.0
    mean = torch.stack([one(x, thinned=True) for _ in range(4000)]).mean(0)
    torch.testing.assert_close(mean, kept * one(x), rtol=0, atol=0.15)
    assert not torch.equal(one(x, thinned=True), one(x, thinned=True)) or dropout.whole
    assert torch.equal(one(x), low_rank()(x)), "sheets and validation see all of it"
    one.train(False)
    assert torch.equal(one(x, thinned=True), one(x)), "a frozen adapter loses nothing"


def test_rank_dropout_drops_the_same_whole_ranks_in_all_rows():
    one, x = low_rank(rank=8, dropout=Dropout(ranks=0.5)), torch.randn(3, 2, 6)
    torch.manual_seed(1)
    low = one.dropout.of(x @ one.down.T)
    share = low / (x @ one.down.T)
    assert set(share.flatten(0, 1).unique(dim=0).round().tolist()[0]) == {0.0, 2.0}
    assert len(share.flatten(0, 1).round(decimals=3).unique(dim=0)) == 1


def test_module_dropout_sometimes_drops_the_whole_adapter():
    one, x = low_rank(dropout=Dropout(whole=0.3)), torch.randn(3, 6)
    torch.manual_seed(2)
    out = [one(x, thinned=True) for _ in range(1000)]
    gone = sum(not o.any() for o in out)
    assert 250 < gone < 350 and all(torch.equal(o, one(x)) for o in out if o.any())


THINNED = {"network_dropout": 0.2, "rank_dropout": 0.3, "module_dropout": 0.2}


def test_a_step_uses_one_thinned_network_in_all_of_its_passes(plan_of):
    """Complete and base prompts, one batch or many: all of a step's predictions have the same dropout."""
    runs = [
        ready_for_stage_2(plan_of(**THINNED, batch_passes=one, overwrite=True)) for one in ("together", "one_by_one")
    ]
    stages = [run.student_stage() for run in runs]
    for run in runs:
        for one in student_layers(run):
            torch.nn.init.normal_(one.up, std=0.05, generator=torch.Generator().manual_seed(3))
    scene, replay = stages[0].scenes.reference(0), stages[0].scenes.replay(0)
    one, two = (stage.branches.predict(scene, replay, seed=5) for stage in stages)
    for reading in stages[0].objective.readings:
        torch.testing.assert_close(one[reading], two[reading], rtol=1e-3, atol=1e-4)
    student = Prediction(STUDENT, COMPLETE)
    reading = next(r for r in stages[0].objective.readings if r.prediction == student)
    assert torch.equal(stages[0].branches.predict(scene, replay, seed=5)[reading], one[reading])
    assert not torch.equal(stages[0].branches.predict(scene, replay, seed=6)[reading], one[reading])
    assert not torch.equal(stages[0].branches.predict(scene, replay)[reading], one[reading])
    same = {**scene.prompts, BASE: scene.prompts[COMPLETE]}
    object.__setattr__(scene, "prompts", same)
    v = stages[0].branches.predict(scene, replay, seed=5)
    base = next(r for r in stages[0].objective.readings if r.prediction == Prediction(STUDENT, BASE))
    torch.testing.assert_close(v[base], v[reading], rtol=1e-4, atol=1e-5)


# Rates


def test_loraplus_gives_the_outer_matrices_a_separate_rate(plan_of):
    plain = {**PLAIN_LORA, "optimizer_type": "torch.optim.SGD", "max_grad_norm": 0.0, "max_train_steps": 1}
    moved = {}
    for ratio in (None, 4.0):
        run = ready(plan_of(**plain, overwrite=True, **({"loraplus_lr_ratio": ratio} if ratio else {})))
        before = [one.up.detach().clone() for one in student_layers(run)]
        row = run.student_stage().step()
        moved[ratio] = [one.up.detach() - old for one, old in zip(student_layers(run), before, strict=True)]
        assert row.get("up_lr") == (ratio and ratio * row["lr"])
    for slow, fast in zip(moved[None], moved[4.0], strict=True):
        torch.testing.assert_close(fast, 4 * slow)
    assert any(one.any() for one in moved[None])


# Precision


def test_full_bf16_keeps_the_lora_its_gradients_and_its_optimizer_in_bf16(plan_of):
    """The concept's vectors stay in float32. The pass itself does not change: it rounds the LoRA to its precision."""
    run = ready(plan_of(full_bf16=True, learning_rate=1e-3, scale_weight_norms=1.0, **THINNED))
    stage = run.student_stage()
    before = {name: one.up.clone() for name, one in run.parts.network.weights("student").items()}
    for _ in range(3):
        row = stage.step()
    kinds = {weight.dtype for weight in run.parts.network.parameters("student")}
    state = {value.dtype for one in run.parts.network.parameters("student")
             for name, value in stage.optimizer.state[one].items() if name != "step"}  # fmt: skip
    assert kinds == state == {torch.bfloat16} and math.isfinite(row["loss"])
    assert {one.moved.dtype for one in run.student.branch.embeddings.values()} == {torch.float32}
    weights = run.parts.network.weights("student")
    assert all(one.up.dtype is torch.float32 for one in weights.values())
    assert any(not torch.equal(one.up, before[name]) for name, one in weights.items())


def test_full_bf16_loses_what_bf16_can_not_represent(plan_of):
    """A step of a thousandth of a weight moves it in float32, but not in bf16."""
    for full_bf16 in (False, True):
        one = low_rank().to(torch.bfloat16 if full_bf16 else torch.float32)
        optimizer = torch.optim.SGD(one.parameters(), lr=1.0)
        before = one.down.detach().clone()
        one.down.grad = -one.down.detach() / 1024
        optimizer.step()
        assert torch.equal(one.down, before) is full_bf16


# Norms


def test_the_length_of_a_change_needs_no_whole_weight():
    one = low_rank()
    torch.testing.assert_close(one.norm(), one.change().norm())


def test_longer_changes_are_shrunk_to_the_limit_and_others_stay_to_the_bit(plan_of):
    run = ready(plan_of(**PLAIN_LORA))
    layers = student_layers(run)
    for number, one in enumerate(layers):
        torch.nn.init.normal_(one.up, std=0.02 * number, generator=torch.Generator().manual_seed(number))
    before = [(one.change().clone(), one.up.detach().clone()) for one in layers]
    most = float(torch.stack([one.norm() for one in layers]).median())
    said = limit_norms([layer.adapters["student"] for layer in run.parts.network.layers.values()], most)
    for one, (change, up) in zip(layers, before, strict=True):
        if change.norm() > most * (1 + 1e-4):
            torch.testing.assert_close(one.change(), change * most / change.norm(), rtol=1e-3, atol=1e-6)
        elif change.norm() < most * (1 - 1e-4):
            assert torch.equal(one.up, up)
    lengths = [float(one.change().norm()) for one in layers]
    assert said["keys_scaled"] == sum(float(change.norm()) > most * (1 + 1e-6) for change, _ in before)
    assert said["average_key_norm"] == pytest.approx(sum(lengths) / len(lengths), rel=1e-4)
    assert said["max_key_norm"] == pytest.approx(max(lengths), rel=1e-4) == pytest.approx(most, rel=1e-4)


def test_both_stages_keep_the_limit_in_every_step_and_log_it(plan_of):
    run = Run(plan_of(scale_weight_norms=0.01))
    run.train()
    rows = read_log(run.folder / "log.jsonl")
    assert {row["stage"] for row in rows} == {EXTRACTOR, STUDENT}
    assert all(row["max_key_norm"] <= 0.01 * (1 + 1e-5) and row["keys_scaled"] > 0 for row in rows)
    assert all(one.norm() <= 0.01 * (1 + 1e-5) for one in student_layers(run))
    assert "max_key_norm" not in read_log(trained(Run(plan_of(**PLAIN_LORA, overwrite=True))).folder / "log.jsonl")[-1]


def test_a_limit_that_nothing_reaches_changes_nothing(plan_of):
    without = trained(Run(plan_of(**PLAIN_LORA, overwrite=True)))
    weights = without.parts.network.weights("student")
    run = Run(plan_of(**PLAIN_LORA, overwrite=True, scale_weight_norms=1e9))
    run.train()
    assert all(torch.equal(one.up, weights[name].up) for name, one in run.parts.network.weights("student").items())


# All together


@pytest.mark.parametrize("full_bf16", [False, True])
def test_with_all_options_a_stopped_run_ends_like_an_unbroken_one(plan_of, monkeypatch, full_bf16):
    settings = {
        **THINNED,
        "full_bf16": full_bf16,
        "scale_weight_norms": 0.05,
        "network_args": ["x_attn_dim=3", "x_mlp_dim=2", "context_mod_dim=0", "train_block_indices=0,2"],
        "loraplus_lr_ratio": 4.0,
        "loss_type": "smooth_l1",
        "clip_l_dropout_rate": 0.3,
        "t5_dropout_rate": 0.3,
        "apply_t5_attn_mask": True,
        "gradient_checkpointing": True,
        "cpu_offload_checkpointing": True,
        "gradient_accumulation_steps": 2,
        "max_train_steps": 3,
    }
    whole = Run(plan_of(**settings))
    whole.train()
    expected = student_file(whole)
    losses = [row["loss"] for row in read_log(whole.folder / "log.jsonl")]
    stopped_after(2, Run(plan_of(**settings)), monkeypatch)
    resumed = Run(plan_of(**settings, resume="auto"))
    resumed.train()
    assert_equal_files(expected, student_file(resumed))
    assert losses == [row["loss"] for row in read_log(resumed.folder / "log.jsonl")] and len(losses) == 5
