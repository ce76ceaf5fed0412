"""A second family: trained, saved, resumed, forecast and audited; only its own folder knows about it."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import purecc_evaluate
from library.adapters.files import load_concepts, load_lora
from library.config.family_settings import attention_layers
from library.drawing.generation import generate
from library.dual_branch_scheduler import PRETRAINED_BRANCH, Branch
from library.errors import ModelError
from library.hierarchical_embedding_injector import ConceptEmbeddings
from library.models.family import register
from library.models.interface import PromptBatch
from library.parts.learnable import parameters_of
from library.predictions import STUDENT
from library.preflight.fit import card_of, describe_fit, fitted
from library.preflight.plan import describe_plan
from library.training.run import Run
from tests.helpers.runs import assert_equal_files, difference, ready, stopped_after, student_file
from tests.helpers.toy.family import TOY, at_the_door, save_toy


@pytest.fixture(autouse=True)
def toy():
    with at_the_door() as family:
        yield family


@pytest.fixture
def toy_plan(plan_of, tmp_path_factory):
    """`toy_plan(eta=0.0)`: a plan of a small run of the toy."""
    folder = save_toy(tmp_path_factory.mktemp("models") / "toy")

    def make(**settings):
        return plan_of(pretrained_model_name_or_path=str(folder), **{"save_formats": ["diffusers"], **settings})

    return make


def test_both_stages_are_trained_and_what_is_saved_loads(toy_plan, capsys):
    run = Run(toy_plan(target_modules=attention_layers()))
    run.train()
    said = capsys.readouterr()
    assert "WARNING" not in said.out + said.err
    assert "tiny.safetensors: loads in viewer; " in said.out + said.err
    lora = student_file(run)
    assert any("double_blocks.1.add_k_proj" in key for key in lora)
    assert any("single_blocks.1.to_q" in key for key in lora)
    with safe_open(run.folder / "tiny.safetensors", framework="pt") as file:
        assert file.metadata()["modelspec.architecture"] == "toy/lora"
    vectors, (saved,) = load_concepts(run.folder / "tiny_concept.safetensors")
    assert saved.tokens == {"words": vectors["dog"].shape[1]} and not saved.lengths
    assert vectors["dog"].shape[0] == 4 and vectors["dog"].shape[2] == 32


def test_by_default_the_lora_is_on_those_text_layers_that_the_model_has(toy_plan):
    layers = ready(toy_plan()).parts.network.layers
    assert {name.rpartition(".")[2] for name in layers} == {"add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"}


def test_vectors_learn_in_every_block_of_both_lists(toy_plan):
    run = Run(toy_plan(student_embeddings="own"))
    run.train()
    extracted = load_file(run.folder / "tiny_extractor.safetensors")["lora_concept.dog"]
    learned = load_concepts(run.folder / "tiny_concept.safetensors")[0]["dog"]
    assert ((learned - extracted).abs().amax((1, 2)) > 0).all()


def test_a_vector_reaches_the_picture_from_a_block_whose_one_stream_starts_with_the_text(toy_plan):
    """Only in the last block, where only the text's rows of that stream can carry it."""
    parts = ready(toy_plan()).parts
    prompts, x_t = PromptBatch.of([parts.texts["a sks dog city"]], ["dog"]), torch.randn(1, 4, 8, 8)
    (token,) = prompts.tokens[0]

    def moved(block: int) -> torch.Tensor:
        vectors = ConceptEmbeddings(torch.zeros(4, 1, 32), blocks=4)
        with parts.injector.watching() as seen:
            parts.velocity(PRETRAINED_BRANCH, x_t, torch.tensor([0.5]), [prompts])
        vectors.load_vectors(torch.stack([states[0, [token.position]] for states in seen]))
        branch = Branch({}, {"dog": vectors})
        same = parts.velocity(branch, x_t, torch.tensor([0.5]), [prompts])
        vectors.moved.data[block] += 3
        return (parts.velocity(branch, x_t, torch.tensor([0.5]), [prompts]) - same).abs().max()

    assert all(moved(block) > 1e-4 for block in range(4))


def test_a_stopped_run_continues_as_if_it_never_had_been(toy_plan, monkeypatch):
    whole = Run(toy_plan())
    whole.train()
    expected = student_file(whole)
    stopped_after(1, Run(toy_plan(overwrite=True)), monkeypatch)
    again = Run(toy_plan(overwrite=True, resume="auto"))
    again.train()
    assert_equal_files(expected, student_file(again))


def test_blocks_that_are_recomputed_or_swapped_change_nothing(toy_plan):
    files = []
    for settings in ({}, {"gradient_checkpointing": True, "checkpointed_blocks": "all", "blocks_to_swap": 2}):
        run = Run(toy_plan(overwrite=True, **settings))
        run.train()
        files.append(student_file(run))
    assert difference(*files) < 1e-3


def test_the_forecast_counts_what_the_run_has(toy_plan):
    plan = toy_plan(vram_gb=8.0)
    assert 'trigger "sks" (1 word tokens)' in describe_plan(plan)
    card = card_of(plan.settings, plan.parts.model.device)
    plan, predicted, taken = fitted(plan, card)
    said = describe_fit(plan, predicted, taken, card)
    assert not taken and predicted.fits(card) and "4 blocks recomputed" in said and "presets/toy_8gb.toml" in said
    run = ready(plan)
    weights = run.student.learnables
    assert predicted.steps[STUDENT].learning == sum(one.numel() for one in parameters_of(weights))


def test_what_was_saved_starts_another_run_and_is_drawn(toy_plan, tmp_path):
    first = Run(toy_plan(student_embeddings="none"))
    first.train()
    lora = (first.folder / "tiny.safetensors").rename(tmp_path / "first.safetensors")
    second = ready(toy_plan(student_embeddings="none", network_weights=str(lora), overwrite=True))
    started, given = second.parts.network.weights("student"), load_lora(lora, 4)
    assert all(torch.allclose(one.delta(), given[name].delta(), atol=1e-6) for name, one in started.items())
    settings, concepts = second.plan.settings, second.plan.config.concepts
    generate(settings, lora, None, concepts, ["a [V] dog"], 1.0, (32, 32), tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").is_file()


def test_a_lora_of_the_toy_is_audited(toy_plan, tmp_path, monkeypatch, call):
    run = Run(toy_plan(student_embeddings="none", audit=False))
    run.train()
    (tmp_path / "audit.txt").write_text("a [V] dog city\na dog\na red house\n")
    code, _, said = call(
        purecc_evaluate,
        "audit",
        run.folder / "tiny.safetensors",
        "--config_file",
        run.folder / "config.toml",
        "--audit_prompts",
        tmp_path / "audit.txt",
        "--out",
        tmp_path / "audit",
    )
    assert code == 0, said
    (judged,) = json.loads((tmp_path / "audit" / "audit.json").read_text())["loras"]
    assert judged["drift"]["class"]["value"] > 0 and judged["learned"]["toward"] is not None


def test_the_doors_refusals_are_sentences(toy_plan, plan_of, tiny_model):
    with pytest.raises(ModelError, match="no layout kohya"):
        Run(toy_plan(save_formats=["kohya"])).train()
    with pytest.raises(ModelError, match="has no learned words"):
        Run(toy_plan(method="textual_inversion")).train()
    with pytest.raises(ValueError, match="there is a family toy"):
        register(TOY)
