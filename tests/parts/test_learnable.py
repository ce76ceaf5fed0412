"""Everything that learns is one list, which is averaged, saved, restored and counted for every method."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from library.errors import ConfigError, ModelError
from library.hierarchical_embedding_injector import ConceptEmbeddings
from library.methods import METHODS
from library.parts.assembled import assemble
from library.parts.learnable import parameters_of
from library.predictions import STUDENT
from library.preflight.forecast import count_step, counted_extractor, counted_parts, counted_student
from library.training.resuming import state_of
from library.training.run import Run
from tests.helpers.datasets import DATASET
from tests.helpers.runs import before_stage_1, ready

SMALL = {"replay_images": 1, "replay_sample_steps": 1, "context_vectors": 0, "ewc_fisher_samples": 1, "audit": False}
FULL = {"method": "dreambooth", "optimizer_type": "AdamW"}
CASES = {
    "own": {"student_embeddings": "own"},
    "fresh": {"student_embeddings": "fresh"},
    "shared": {"student_embeddings": "shared"},
    "none": {"concept_embeddings": "none", "student_embeddings": "none"},
    "the extractor's alone": {"student_embeddings": "none"},
    "one for all blocks": {"concept_embeddings": "shared", "student_embeddings": "own"},
    "in the first block": {"concept_embeddings": "first_block"},
    "merged, own": {"merged": True, "student_embeddings": "own"},
    "merged, shared": {"merged": True, "student_embeddings": "shared"},
    "no stage 1": {"eta": 0.0, "extractor_anchor_weight": 0.0},
    "outer matrices faster": {"loraplus_lr_ratio": 4.0},
    "whole weights and vectors": {**FULL, "fused_backward_pass": False, "with_embeddings": True},
    "a LoRA and vectors": {"method": "ewc", "with_embeddings": True},
    **{method: {"method": method} for method in METHODS if method not in ("purecc", "dreambooth")},
    "dreambooth": FULL,
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Shared by all tests, which cache the same data."""
    return str(tmp_path_factory.mktemp("cache"))


def every_weight(run: Run) -> dict[str, nn.Parameter]:
    """Everything that could learn, by name: all of the transformer's adapters, vectors and words."""
    found = {f"transformer {name}": one for name, one in run.parts.model.transformer.named_parameters()}
    vectors = run.extractor.branch.embeddings
    found |= {f"extractor vectors {name}": one.moved for name, one in vectors.items()}
    if not hasattr(run, "student"):
        return found
    if run.student.branch.embeddings is not vectors:
        found |= {f"student vectors {name}": one.moved for name, one in run.student.branch.embeddings.items()}
    words = run.student.words
    return found | {f"words {name}": one for name, one in (words.named_parameters() if words else ())}


def values(run: Run) -> dict[str, torch.Tensor]:
    return {name: one.detach().clone() for name, one in every_weight(run).items()}


def names_where(condition, one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in one if condition(one[name], two[name])}


def differ(one: torch.Tensor, two: torch.Tensor) -> bool:
    return not torch.equal(one, two)


@torch.no_grad()
def move_all(run: Run) -> None:
    """Changes everything, as if it had learned something."""
    for weight in every_weight(run).values():
        weight.add_(1)


@pytest.mark.parametrize("settings", CASES.values(), ids=CASES)
def test_what_learns_is_what_is_averaged_saved_restored_and_counted(plan_of, cache, settings):
    given = {**SMALL, "cache_dir": cache, "ema_decay": 0.9, **settings}
    run, learned = before_stage_1(plan_of(**given)), set()
    for name in run.plan.stage_steps:
        if name == STUDENT:
            run.build_student()
            run.average.step()  # the first step forgets the start
        move_all(run)
        if name == STUDENT:
            run.average.step()
        about = run.student if name == STUDENT else run.extractor
        stage = run.student_stage() if name == STUDENT else run.extractor_stage()
        weights = every_weight(run)
        learning = {one for each in stage.update.learners for one in each.parameters}
        names = {called for called, one in weights.items() if one.requires_grad}
        assert names and {weights[called] for called in names} == learning, "frozen, or nowhere in the run"
        parts = counted_parts(run.plan)
        counted = counted_student(parts) if name == STUDENT else counted_extractor(parts)
        made = assemble(counted, parts, run.plan.has_reg)
        assert [shapes(one) for one in made.learnables] == [shapes(one) for one in about.learnables]
        assert [held(one) for one in counted.held] == [held(one) for one in about.held]
        assert passes(made.branches) == passes(stage.branches)
        count = count_step(run.plan, name)
        assert count.learning == sum(one.numel() for one in learning)
        learned |= names
        moved = values(run)
        if name == STUDENT:
            with run.average.shown():
                averaged = values(run)
            assert names_where(differ, averaged, moved) == names
        stage.done = 1
        run.states.save(state_of(run.plan, stage, about, run.average))
        resumed = ready(plan_of(**given, resume="auto"))
        restored = values(resumed)
        found = names_where(torch.equal, moved, restored)
        assert (found == learned) if name == STUDENT else (learned <= found)
        if name == STUDENT:
            with resumed.average.shown():
                again = values(resumed)
            assert all(torch.equal(again[called], averaged[called]) for called in names)


def shapes(learnable) -> tuple:
    return learnable.name, {name: (one.shape, learnable.rate_of(name)) for name, one in learnable.weights.items()}


def held(learnable) -> tuple:
    """Its tensors, including those that don't learn, and their bytes."""
    tensors = learnable.state().items()
    return learnable.name, {name: (one.shape, one.dtype, one.nbytes, one.requires_grad) for name, one in tensors}


def passes(branches) -> tuple:
    return branches.passes()


@pytest.mark.parametrize("name", ["fresh", "textual_inversion", "merged, shared", "dreambooth"])
def test_a_forecast_counts_what_learns_and_its_average(plan_of, cache, name):
    given = {**SMALL, "cache_dir": cache, **CASES[name]}
    plan = plan_of(**given)
    optimizer = replace(plan.settings.optimizer, ema_decay=0.9)
    averaged = plan.with_settings(replace(plan.settings, optimizer=optimizer))
    more, less = (count_step(one, STUDENT) for one in (averaged, plan))
    learning = parameters_of(counted_student(counted_parts(plan)).learnables)
    assert more.footprint.weights - less.footprint.weights == sum(one.nbytes for one in learning)
    assert more.learning == sum(one.numel() for one in learning)


# The concept's vectors


@pytest.mark.parametrize(("rows", "every_block"), [(3, True), (1, True), (1, False)])
def test_vectors_are_loaded_as_they_are_saved(rows, every_block):
    first, second = (
        ConceptEmbeddings(torch.randn(rows, 2, 8, generator=torch.Generator().manual_seed(seed)), 3, every_block)
        for seed in range(2)
    )
    torch.nn.init.normal_(second.moved, generator=torch.Generator().manual_seed(2))
    start = first.start.clone()
    first.load_vectors(second.per_block())
    torch.testing.assert_close(first.per_block(), second.per_block(), rtol=1e-6, atol=1e-6)
    assert torch.equal(first.start, start) and first.moved.requires_grad
    with pytest.raises(ValueError, match="their shape is"):
        first.load_vectors(second.per_block()[:, :1])


def test_vectors_of_each_block_are_none_that_all_blocks_share():
    shared = ConceptEmbeddings(torch.ones(1, 2, 8), 3)
    with pytest.raises(ValueError, match="all blocks share one"):
        shared.load_vectors(torch.randn(3, 2, 8))


@pytest.mark.parametrize("kind", ["per_block", "shared", "first_block"])
@pytest.mark.parametrize("own", ["own", "fresh"])
def test_network_weights_bring_their_vectors_along(plan_of, tmp_path, kind, own):
    given = {"eta": 0.0, "context_vectors": 0, "audit": False, "save_precision": "float"}
    given |= {"extractor_train_steps": 0, "concept_embeddings": kind, "sample_steps": 1, "replay_images": 1}
    first = Run(plan_of(**given, student_embeddings="fresh", output_dir=str(tmp_path / "first")))
    first.train()
    lora = str(first.folder / "tiny.safetensors")
    still = {"network_weights": lora, "learning_rate": 0.0, "embedding_lr": 0.0, "max_train_steps": 1}
    if own == "own":
        still |= {"eta": 1.0}  # so that there is an extractor whose vectors are copied
    again = Run(plan_of(**{**given, **still}, student_embeddings=own, output_dir=str(tmp_path / "again")))
    again.train()
    for file in ("tiny.safetensors", "tiny_concept.safetensors"):
        one, two = load_file(first.folder / file), load_file(again.folder / file)
        torch.testing.assert_close(two, one, rtol=1e-5, atol=1e-6)
    fresh = Run(plan_of(**given, max_train_steps=1, embedding_lr=0.0, output_dir=str(tmp_path / "fresh")))
    fresh.train()
    apart = load_file(fresh.folder / "tiny_concept.safetensors")["lora_concept.dog"]
    assert (apart - load_file(first.folder / "tiny_concept.safetensors")["lora_concept.dog"]).norm() > 0.01


def test_vectors_that_are_missing_or_do_not_fit_are_reported(plan_of, tmp_path, capsys):
    given = {**SMALL, "eta": 0.0, "max_train_steps": 1, "extractor_train_steps": 0}
    first = Run(plan_of(**given, output_dir=str(tmp_path / "first")))
    first.train()
    capsys.readouterr()
    start = {**given, "network_weights": str(first.folder / "tiny.safetensors")}
    with pytest.raises(ModelError, match=r"network_weights: .*dog.*tiny_concept\.safetensors") as error:
        ready(plan_of(**start, concept_embeddings="first_block", output_dir=str(tmp_path / "other")))
    assert "concept_embeddings" in error.value.remedy
    cat = DATASET.replace('name = "dog"', 'name = "cat"')
    ready(plan_of(cat, **start, output_dir=str(tmp_path / "cat")))
    assert "has no vectors of cat" in capsys.readouterr().err


def test_a_state_that_does_not_fit_is_reported(plan_of, cache):
    run = ready(plan_of(**SMALL, cache_dir=cache))
    (lora, vectors) = run.student.learnables
    with pytest.raises(ModelError, match=r"resume: .*student_dog vectors.*moved"):
        vectors.load_state({"vectors.start": vectors.modules["vectors"].start})
    first = next(iter(lora.weights))
    with pytest.raises(ModelError, match=f"the student of the state differs .*{first}"):
        lora.load_state({**lora.state(), first: torch.zeros(1)})


def test_there_is_no_average_of_weights_in_bf16(plan_of):
    with pytest.raises(ConfigError, match="full_bf16"):
        plan_of(method="lora", full_bf16=True, ema_decay=0.9)
