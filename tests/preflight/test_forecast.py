"""The count of a run's memory: it counts what is there, at full size it stays within budget, and a run follows it."""

from pathlib import Path

import pytest
import torch
from torch import nn

from library.config.dataset_file import read_dataset_config
from library.config.family_settings import attention_layers
from library.config.files import TomlFile, read_settings
from library.errors import ConfigError, TrainingError
from library.models.memory.live_memory import LiveMemory
from library.models.memory.operations import META
from library.models.memory.residence import Residence
from library.models.opening import load_model
from library.models.sd3.single_file import SD3_MEDIUM, SD35_LARGE
from library.predictions import STUDENT
from library.preflight.fit import (
    card_of,
    check_auto_fit,
    describe_fit,
    fitted,
    recompute_as_few_as_fit,
    steps_down,
)
from library.preflight.forecast import (
    CUDA_CONTEXT,
    DESKTOP,
    GIB,
    StepCount,
    count_step,
    forecast,
)
from library.preflight.plan import make_plan
from library.training.resuming import shaping
from library.training.run import Run
from tests.helpers.datasets import CONCEPT
from tests.helpers.full_size import write_full_size
from tests.helpers.places import ROOT

MIB = 2**20


def test_live_memory_counts_from_the_making_of_a_tensor_to_its_last_holder():
    weight = torch.zeros(256, 1024, device=META)
    with LiveMemory() as memory:
        first = torch.zeros(1024, 1024, dtype=torch.uint8, device=META)
        second, view = first + 1, first[:10]
        assert memory.now == 2 * MIB
        del first
        assert memory.now == 2 * MIB  # the view holds on to it
        del view
        assert memory.now == MIB
        del second
        assert (memory.now, memory.peak) == (0, 2 * MIB)
        weight.t()
        assert memory.now == 0  # a view of what was there before is nothing new


def test_live_memory_counts_what_is_saved_for_the_backward_pass_and_the_arithmetic():
    layer = nn.Linear(1024, 256, bias=False, device=META)
    x = torch.zeros(64, 1024, device=META, requires_grad=True)
    with LiveMemory() as memory:
        out = layer(x).sigmoid()
        assert memory.now == out.nbytes  # the product itself is not needed any more
        out.sum().backward()
    assert memory.flops == 3 * 2 * 64 * 1024 * 256
    assert memory.now >= x.grad.nbytes + layer.weight.grad.nbytes


def test_an_operation_that_is_known_by_now_gives_and_counts_what_it_did_the_first_time():
    layer = nn.Linear(24, 12, device=META)

    def seen(x) -> list:
        with LiveMemory() as memory:
            parts = [layer(x), layer(x).sigmoid(), x.t() * 2, x + 1, *nn.functional.layer_norm(x, (24,)).chunk(2)]
            described = [(one.shape, one.stride(), one.dtype, one.requires_grad) for one in parts]
            of_their_own = len({one.untyped_storage()._cdata for one in parts[:4]})
        return [described, of_their_own, memory.now, memory.peak, memory.flops, memory.work.operations]

    wide, half = torch.zeros(40, 24, device=META), torch.zeros(40, 24, device=META, dtype=torch.float16)
    assert seen(wide) == seen(wide) and seen(wide)[1] == 4
    layer.half()
    assert seen(half)[0] != seen(wide[:20].half())[0] and seen(half)[0][0][2] == torch.float16
    strided = torch.zeros(24, 40, device=META, dtype=torch.float16).t()
    assert seen(strided)[0][2] != seen(half)[0][2], "the stride counts as well"


# At full size


@pytest.fixture(scope="module")
def full_size(tmp_path_factory):
    return write_full_size(tmp_path_factory.mktemp("models") / "full")


@pytest.fixture
def full_plan(full_size, pictures, tmp_path):
    """`full_plan("presets/sd35m_8gb.toml", vram_gb=8.0)`: a preset's plan on the full-size model without weights.

    `of` is another model's folder.
    """

    def make(preset: str, of: Path = full_size, **settings):
        file, dataset = TomlFile(ROOT / preset), tmp_path / "dataset.toml"
        dataset.write_text(f'{CONCEPT}[[datasets]]\n[[datasets.subsets]]\nimage_dir = "{pictures}"\n')
        given = {"pretrained_model_name_or_path": str(of), "device": "cpu", "cache_dir": str(tmp_path)}
        read = read_settings(file, {**given, **settings})
        return make_plan(read, read_dataset_config(TomlFile(dataset), read.data))

    return make


def test_the_full_size_model_has_the_known_number_of_weights(full_size, plan_of):
    settings = plan_of().settings.model
    model = load_model(
        type(settings)(**{**vars(settings), "pretrained_model_name_or_path": str(full_size), "mixed_precision": "bf16"})
    ).counted(Residence())
    assert sum(weight.numel() for weight in model.transformer.parameters()) == 2_243_171_520
    table = model.transformer.pos_embed.pos_embed
    model.transformer.pos_embed.cropped_pos_embed(128, 128)
    assert table.nbytes < model.transformer.pos_embed.pos_embed.nbytes == 64 * 64 * 1536 * 2


@pytest.fixture(scope="module")
def counted():
    """Stage 2 of a full-size plan, counted once for all that say the same."""
    known: dict[tuple, StepCount] = {}

    def count(plan) -> StepCount:
        settings = plan.settings
        key = (settings.data.resolution, settings.data.train_batch_size, Residence.of(settings.model).blocks_to_swap)
        key += (settings.model.quantization,)
        if key not in known:
            known[key] = count_step(plan, STUDENT)
        return known[key]

    return count


BUDGETS = [
    (1024, {}, 7.0),
    (512, {}, 5.6),
    (1024, {"base_quantization": "int8"}, 5.0),
    (1024, {"base_quantization": "nf4"}, 4.0),
    (1024, {"blocks_to_swap": 22}, 3.5),
]


@pytest.mark.parametrize(("resolution", "settings", "budget"), BUDGETS, ids=str)
def test_stage_2_stays_within_its_budget_at_full_size(resolution, settings, budget, full_plan, counted):
    """One picture a step, the objective of pure, whose ties take turns."""
    common = {"resolution": resolution, "train_batch_size": 1, "checkpointed_blocks": "all"}
    step = counted(full_plan("presets/pure.toml", **common, **settings))
    needed = (step.footprint.total + CUDA_CONTEXT) / GIB
    print(f"{resolution} {settings}: {needed:.2f} GiB, {step.flops / 1e12:.1f} TFLOP, {step.moved / GIB:.2f} GiB moved")
    assert needed < budget
    assert 5.5 < step.flops / ({512: 2.138e12, 1024: 10.783e12}[resolution]) < 10
    assert step.learning == 10_506_240
    if "blocks_to_swap" in settings:
        assert step.moved < 8 * 3.7 * GIB


@pytest.mark.parametrize("gigabytes", [6, 8, 12, 16, 24])
def test_the_preset_of_each_card_fits_it(gigabytes, full_plan, counted):
    preset = f"presets/sd35m_{gigabytes}gb.toml"
    plan = full_plan(preset, checkpointed_blocks="all")
    step = counted(plan)
    room = gigabytes * GIB - DESKTOP - CUDA_CONTEXT
    assert step.footprint.total <= room
    size = plan.size
    others = plan.parts.model.footprints([size], [size])
    assert step.footprint.weights + others["decode"].total <= room
    assert max(others["text"].total, others["encode"].total) <= room
    assert plan.parts.model.t5_length == 77 and max(size) <= 1024 and plan.settings.model.quantization == "none"


@pytest.mark.parametrize(
    ("sibling", "preset", "blocks"),
    [(SD35_LARGE, "sd35l_16gb", 38), (SD3_MEDIUM, "sd35m_8gb", 24)],
    ids=lambda one: str(one)[-10:],
)
def test_a_sibling_fits_the_card_that_its_preset_is_for(sibling, preset, blocks, full_plan, tmp_path):
    plan = full_plan(
        f"presets/{preset}.toml", of=write_full_size(tmp_path / "model", sibling), checkpointed_blocks="all"
    )
    size = int(preset.split("_")[1].removesuffix("gb"))
    step, room = count_step(plan, STUDENT), size * GIB - DESKTOP - CUDA_CONTEXT
    assert plan.size == (1024, 1024) and plan.settings.model.quantization == "none"
    assert len(plan.parts.model.counted().blocks) == blocks
    decode = plan.parts.model.footprints([plan.size], [plan.size])["decode"]
    assert step.footprint.total <= room and step.footprint.weights + decode.total <= room


# Fitting, at small size


def test_a_forecast_names_every_phase_and_a_card_too_small_is_answered_in_order(plan_of):
    plan = plan_of(vram_gb=1.0)
    card = card_of(plan.settings, plan.parts.model.device)
    plan, predicted, taken = fitted(plan, card)
    said = describe_fit(plan, predicted, taken, card)
    phases = ["text encoders", "VAE", "stage 1, extractor", "stage 2, student", "sampling", "decoding"]
    assert list(predicted.phases) == phases and all(phase in said for phase in phases)
    assert not taken and not predicted.fits(card) and "Does not fit a GPU with 1.0 GiB" in said
    order = ["gradient_checkpointing = true", "vae_tiling", "one_by_one", "blocks_to_swap = 1", '"int8"', '"nf4"']
    assert [said.index(word) for word in order] == sorted(said.index(word) for word in order)
    assert "Fits a GPU" in describe_fit(*fitted(plan_of(vram_gb=4.0), 4 * GIB), 4 * GIB)


@pytest.mark.parametrize(("others", "left"), [(0.5, 8.0), (0.9, 8.0), (2.0, 6.9)])
def test_a_card_is_as_large_as_others_leave_it_and_our_own_context_does_not_count(plan_of, monkeypatch, others, left):
    """What CUDA holds for this process is part of the forecast, so it must not be missing from the card as well."""
    free = 8 * GIB - int(others * GIB) - CUDA_CONTEXT
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 8 * GIB))
    assert card_of(plan_of().settings, torch.device("cuda")) / GIB == pytest.approx(left)


def test_auto_fit_takes_every_step_and_the_run_follows(plan_of):
    common = {"gradient_checkpointing": True, "vae_tiling": True, "batch_passes": "one_by_one"}
    plan, predicted, taken = fitted(plan_of(vram_gb=1.0, auto_fit=True, **common), GIB)
    model, residence = plan.settings.model, plan.parts.model.residence
    assert len(taken) == 3 and not steps_down(plan.settings, 3)
    assert (model.base_quantization, model.blocks_to_swap, model.vae_tiling) == ("nf4", 1, True)
    assert (residence.quantization, residence.blocks_to_swap) == ("nf4", 1)
    assert "Set by auto_fit: blocks_to_swap = 1" in describe_fit(plan, predicted, taken, GIB)
    run = Run(plan)
    run.train()
    assert run.parts.model.base.swapped == 1 and 'base_quantization = "nf4"' in (run.folder / "config.toml").read_text()
    with pytest.raises(ConfigError, match="auto_fit: this computer has no NVIDIA GPU"):
        check_auto_fit(plan.settings, None)


def test_auto_recomputes_as_few_blocks_as_there_is_room_for(plan_of):
    plan = plan_of(gradient_checkpointing=True, replay_weight=0.0, target_modules=attention_layers())
    predicted, blocks = forecast(plan), []
    every = max(step.footprint.total for step in predicted.steps.values())
    none = count_step(plan, STUDENT, Residence(recomputed=0)).footprint.total
    for share in (0.0, 0.7, 1.0):
        plan.parts.model.residence, room = Residence(), int(every + share * (none - every))
        found = recompute_as_few_as_fit(plan, predicted, room)
        assert max(step.footprint.total for step in found.steps.values()) <= room
        blocks.append(plan.parts.model.residence.recomputed)
    assert blocks[0] is None and blocks[1] in (1, 2) and blocks[2] == 0


def test_partial_checkpointing_quantisation_and_swapping_each_save_what_they_should(plan_of):
    plan = plan_of(gradient_checkpointing=True)

    def count(**residence):
        return count_step(plan, STUDENT, Residence(**residence))

    whole, half, none = (count(recomputed=number).footprint.transient for number in (3, 1, 0))
    assert whole < half < none
    assert count(quantization="int8").footprint.weights < count().footprint.weights
    assert count(blocks_to_swap=1).moved > 0 == count().moved
    assert count(recomputed=3).flops > count(recomputed=0).flops


# Out of memory in training


def lacking_memory(run: Run, enough) -> list[int]:
    """Makes the run's model run out of memory until `enough(run)`; returns where the number of failures is kept."""
    failures, velocity = [0], run.plan.parts.model.velocity

    def scarce(x_t, sigma, prompts, skipped=()):
        if torch.is_grad_enabled() and not enough(run):
            failures[0] += 1
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return velocity(x_t, sigma, prompts, skipped)

    run.plan.parts.model.velocity = scarce
    return failures


def test_out_of_memory_is_answered_with_what_to_do_in_order(plan_of):
    run = Run(plan_of(context_vectors=0))
    lacking_memory(run, lambda run: False)
    with pytest.raises(TrainingError, match="step 1: out of GPU memory") as caught:
        run.train()
    assert 'checkpointed_blocks = "all"' in str(caught.value) and "--auto_fit" in str(caught.value)


def test_out_of_memory_while_the_context_is_learned_is_answered_too(plan_of):
    run = Run(plan_of())
    lacking_memory(run, lambda run: False)
    with pytest.raises(TrainingError, match="context: out of GPU memory") as caught:
        run.train()
    assert "context_vectors = 0" in str(caught.value)


def test_with_auto_fit_a_run_that_runs_out_of_memory_goes_on_to_the_same_result(plan_of):
    plain = Run(plan_of(gradient_checkpointing=True, batch_passes="one_by_one"))
    plain.train()
    expected = {name: one.down for name, one in plain.parts.network.weights("student").items()}
    run = Run(plan_of(auto_fit=True, overwrite=True))
    failures = lacking_memory(run, lambda run: run.parts.model.base.swap is not None)
    run.train()
    assert failures == [3] and run.parts.model.base.swapped == 1
    for name, one in run.parts.network.weights("student").items():
        assert torch.equal(one.down, expected[name])
    holders = (run, run.plan, run.parts, run.ingredients.parts, run.monitor.report.plan, run.monitor.sheets.maker.parts)
    assert all(one.settings is run.settings for one in holders)
    saved = read_settings(TomlFile(run.folder / "config.toml"))
    for found in (run.settings, saved):
        assert (found.optimizer.batch_passes, found.model.checkpointed_blocks) == ("one_by_one", "all")
        assert found.model.gradient_checkpointing and found.model.blocks_to_swap == 1
    assert shaping(run.plan) == shaping(plain.plan), "a step down shapes nothing, so states stay good"


def test_a_dry_run_ends_with_1_where_the_memory_does_not_suffice(monkeypatch, capsys, tmp_path):
    import purecc_train

    monkeypatch.chdir(ROOT)
    words = ["--config_file", "presets/demo.toml", "--dry_run", "--vram_gb", "1", "--cache_dir", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["purecc_train.py", *words])
    with pytest.raises(SystemExit) as stop:
        purecc_train.main([])
    assert stop.value.code == 1 and "Does not fit a GPU with 1.0 GiB" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["purecc_train.py", *words[:-3], "4", *words[-2:]])
    purecc_train.main([])
    assert "Fits a GPU with 4.0 GiB" in capsys.readouterr().out
