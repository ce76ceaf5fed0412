"""Each method does what defines it, reads only its own settings, and reports unused ones."""

import ast
import math
import re

import pytest
import torch
from safetensors.torch import load_file

from library.config.family_settings import attention_layers
from library.config.files import TomlFile, as_tables, read_settings, to_toml
from library.config.method_settings import PURECC
from library.methods import METHODS
from library.methods.dco import preference
from library.methods.method import own_of_all
from library.methods.reads import OF_SOME, WITH_EMBEDDINGS
from library.models.interface import PromptBatch
from library.predictions import BASE, COMPLETE, PRETRAINED, REPLAY, STUDENT, Prediction, Truth, given, learned
from library.preflight.plan import describe_plan
from library.report.log import read_log
from library.training.run import Run
from tests.helpers.datasets import DOGS, HEAD
from tests.helpers.places import ROOT
from tests.helpers.predictions import velocities
from tests.helpers.runs import PLAIN_LORA, assert_equal_files, disturb, ready, stopped_after, student_file

pytestmark = pytest.mark.usefixtures("shared_cache")

MODEL = {"pretrained_model_name_or_path": "m"}


def result_file(run: Run) -> dict[str, torch.Tensor]:
    """The run's result: a LoRA, or an embedding."""
    words = run.folder / "tiny_embedding.safetensors"
    return load_file(words) if words.exists() else student_file(run)


def gradients(run: Run, loss: torch.Tensor) -> list[torch.Tensor]:
    return torch.autograd.grad(loss, run.parts.network.parameters("student"), retain_graph=True)


# Settings


def test_every_method_has_a_file_and_a_preset():
    for name in METHODS:
        source = ROOT / "library" / "methods" / f"{name}.py"
        assert ast.get_docstring(ast.parse(source.read_text()))
        if name != PURECC:
            about = ast.get_docstring(ast.parse(source.read_text()))
            assert "The port:" in about or name == "lora", "it states where the port had to choose"
            preset = read_settings(TomlFile(ROOT / "presets" / "methods" / f"{name}.toml"))
            assert preset.method.method == name
    table = (ROOT / "docs" / "reference" / "methods.md").read_text()
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == {"method", *METHODS}


@pytest.mark.parametrize("preset", sorted((ROOT / "presets" / "methods").glob("*.toml")), ids=lambda path: path.name)
def test_a_methods_preset_sets_only_what_the_method_reads(preset):
    notices = []
    settings = read_settings(TomlFile(preset), notices=notices)
    assert not [notice for notice in notices if "does not use" in notice]
    assert read_settings(None, {n: v for t in as_tables(settings).values() for n, v in t.items()}) == settings


def test_settings_that_a_method_does_not_use_are_reported_in_one_sentence_and_change_nothing():
    notices = []
    given = {**MODEL, "method": "dop", "eta": 2.0, "anchor_weight": 3.0, "dco_beta": 7.0}
    settings = read_settings(None, given, notices)
    (said,) = [notice for notice in notices if "does not use" in notice]
    assert said.startswith('method = "dop" does not use dco_beta, eta;')
    assert settings == read_settings(None, {**MODEL, "method": "dop", "anchor_weight": 3.0})
    assert settings.pure_learning.anchor_weight == 3.0 and settings.pure_learning.eta == 0.0


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({}, []),
        ({"eta": 0.5, "lambda": 1.0}, []),
        ({"lambda": 1.0, "extractor_train_steps": 300}, ["extractor_train_steps", "lambda"]),
        ({"lambda": 1.0, "extractor_train_steps": 300, "student_embeddings": "own"}, ["lambda"]),
    ],
    ids=str,
)
def test_what_only_l_purecc_and_stage_1_read_is_reported_if_eta_is_0(given, named):
    notices = []
    settings = read_settings(None, {**MODEL, **given}, notices)
    assert settings.needs_extractor == ("eta" in given or "student_embeddings" in given)
    assert [one for one in notices if one.startswith("eta = 0")] == notices
    assert [re.search(r"so (.+) will", one)[1] for one in notices] == ([", ".join(named)] if named else [])


@pytest.mark.parametrize("off", [{"word_weight": 0.0}, {"student_embeddings": "none"}])
def test_the_weight_of_the_words_states_is_reported_if_nothing_teaches_the_word(off):
    for weight, told in (({}, 0), ({"word_states_weight": 0.5}, 1)):
        notices = []
        read_settings(None, {**MODEL, **off, **weight}, notices)
        assert sum("word_states_weight will have no effect" in one for one in notices) == told


VECTORED = [name for name, method in METHODS.items() if method.may_have_vectors]


@pytest.mark.parametrize("method", VECTORED)
def test_a_rival_may_have_the_vectors_of_mix_of_show_if_it_is_asked_to(method):
    given, notices = {**MODEL, "method": method, "embedding_lr": 3e-3}, []
    without = read_settings(None, given, notices)
    assert "embedding_lr" in notices[-1] and without.concept_embeddings.concept_embeddings == "none"
    notices.clear()
    settings = read_settings(None, {**given, "with_embeddings": True}, notices)
    kind = settings.concept_embeddings
    assert (kind.concept_embeddings, kind.student_embeddings) == ("per_block", "fresh") and not notices
    assert settings.optimizer.embedding_lr == 3e-3
    flat = {name: value for table in as_tables(settings).values() for name, value in table.items()}
    assert read_settings(None, flat) == settings


def test_dop_with_embeddings_learns_vectors_and_holds_the_base_prompt(plan_of):
    run = ready(plan_of(method="dop", with_embeddings=True))
    stage = run.student_stage()
    before = run.student.branch.embeddings["dog"].vectors().detach().clone()
    row = stage.step()
    assert {"lr", "embedding_lr", "anchor"} <= set(row)
    assert not torch.equal(before, run.student.branch.embeddings["dog"].vectors())


def test_config_toml_of_a_method_holds_what_it_reads_and_reads_back_the_same(tmp_path):
    settings = read_settings(None, {**MODEL, "method": "lora"})
    file = tmp_path / "config.toml"
    file.write_text(to_toml(as_tables(settings)))
    notices = []
    assert read_settings(TomlFile(file), notices=notices) == settings and not notices
    assert "eta" not in as_tables(settings)["pure_learning"] and "network_dim" in as_tables(settings)["network"]


def test_the_plan_names_the_method_and_what_it_trains(plan_of):
    first = describe_plan(plan_of(method="dop")).splitlines()[0]
    assert first == f"Method: dop, which trains {METHODS['dop'].trains}."


def test_every_setting_of_a_rival_is_read_by_some_method():
    read = set().union(*(method.all_reads for method in METHODS.values()))
    assert read == OF_SOME | own_of_all() | {WITH_EMBEDDINGS}


# Plain methods


@pytest.mark.parametrize(
    ("method", "as_purecc"),
    [
        ("lora", {}),
        ("dop", {"anchor_weight": 1.0}),
        ("prior_preservation", {"prior_loss_weight": 1.0, "replay_images": 4, "replay_weight": 0.0}),
    ],
)
def test_these_rivals_are_purecc_with_all_but_one_term_off(plan_of, tmp_path, method, as_purecc):
    files = []
    for settings in ({"method": method}, {**PLAIN_LORA, "target_modules": attention_layers(), **as_purecc}):
        run = Run(plan_of(**settings, output_dir=str(tmp_path / str(len(files)))))
        run.train()
        files.append(student_file(run))
    assert_equal_files(*files)


@pytest.mark.parametrize("method", [name for name in METHODS if name != PURECC])
def test_a_method_trains_saves_and_continues_where_it_was_stopped(plan_of, monkeypatch, method):
    settings = {"method": method, "max_train_steps": 3, "ewc_fisher_samples": 2}
    whole = Run(plan_of(**settings))
    whole.train()
    expected, rows = result_file(whole), read_log(whole.log.path)
    assert [row["stage"] for row in rows] == ["student"] * 3, "no stage 1"
    stopped_after(2, Run(plan_of(**settings)), monkeypatch)
    resumed = Run(plan_of(**settings, resume="auto"))
    resumed.train()
    assert_equal_files(expected, result_file(resumed))
    assert resumed.states.newest() is None


def test_dop_pulls_at_the_base_prompt_alone_and_towards_the_pretrained_model(plan_of):
    run = ready(plan_of(method="dop"))
    disturb(run)
    stage = run.student_stage()
    v = stage.branches.predict(stage.scenes.reference(0))
    (tie,) = [term for name, _, term in stage.objective.terms if name == "anchor"]
    pulled = gradients(run, tie(v).mean())
    gap = v[learned(STUDENT, BASE)] - v[tie.to]
    expected = gradients(run, (2 * gap.detach() / gap[0].numel() * v[learned(STUDENT, BASE)]).sum() / len(gap))
    for one, other in zip(pulled, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-7)
    untouched = ready(plan_of(method="dop", overwrite=True)).student_stage()
    fresh = untouched.branches.predict(untouched.scenes.reference(0))
    assert tie(fresh).max() < 1e-10, "a fresh LoRA predicts what the pretrained model does"


def test_prior_predictions_target_on_other_pictures_is_the_pretrained_models(plan_of, reg):
    run = ready(plan_of(HEAD + DOGS + reg, method="prior_prediction", prior_loss_weight=0.5))
    stage = run.student_stage()
    assert REPLAY not in {reading.prediction.prompt for reading in stage.objective.readings}
    disturb(run)
    number = next(n for n in range(20) if len({d.picture.subset.is_reg for d in run.plan.order.batch(n)}) == 2)
    scene = stage.scenes.reference(number)
    v = stage.branches.predict(scene)
    student, pretrained = v[learned(STUDENT, COMPLETE)], v[given(PRETRAINED, COMPLETE)]
    loss = stage.objective(v).parts["concept"]
    for row, draw in enumerate(run.plan.order.batch(number)):
        target = v.truth(learned(STUDENT, COMPLETE)).target
        goal, weight = (pretrained, 0.5) if draw.picture.subset.is_reg else (target, 1.0)
        assert loss[row] == pytest.approx(weight * float((student[row] - goal[row]).detach().square().mean()), rel=1e-4)


def test_without_other_pictures_prior_prediction_lets_the_pretrained_model_draw_some(plan_of):
    plan = plan_of(method="prior_prediction")
    assert plan.uses_replay and not plan_of(method="lora").uses_replay
    readings = METHODS["prior_prediction"].student(plan.settings, False).readings
    assert {r.prediction for r in readings} >= {Prediction(STUDENT, REPLAY), Prediction(PRETRAINED, REPLAY)}


def test_dco_starts_as_flow_matching_and_lets_go_of_what_is_learned():
    goal, pretrained = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    term = preference(beta=10.0)

    def loss_and_gradient(student):
        student = student.clone().requires_grad_()
        v = {Prediction(STUDENT, COMPLETE): student, Prediction(PRETRAINED, COMPLETE): pretrained}
        loss = term(velocities(v, Truth(goal, torch.zeros(len(goal)))))
        return loss, torch.autograd.grad(loss.sum(), student)[0]

    fresh, gradient = loss_and_gradient(pretrained)
    assert torch.allclose(fresh * 10.0 / 2, torch.tensor(math.log(2)))
    flow_matching = 2 * (pretrained - goal) / goal[0].numel()
    torch.testing.assert_close(gradient, flow_matching)
    learned_it, gradient = loss_and_gradient(goal)
    assert (learned_it < fresh).all() and gradient.abs().max() == 0
    half = (pretrained + goal) / 2
    factor = loss_and_gradient(half)[1] / ((half - goal) * 2 / goal[0].numel())
    gain = (half - goal).square().flatten(1).mean(1) - (pretrained - goal).square().flatten(1).mean(1)
    expected = 2 * torch.sigmoid(10.0 * gain)
    torch.testing.assert_close(factor, expected.view(-1, 1, 1, 1).expand_as(factor), rtol=1e-3, atol=1e-4)


# Textual inversion


def test_textual_inversion_learns_the_words_alone_and_other_prompts_stay_exactly_as_they_were(plan_of):
    run = ready(plan_of(method="textual_inversion", embedding_lr=1e-2))
    frozen = {name: weight.clone() for name, weight in run.parts.model.transformer.named_parameters()}
    before = {name: rows.detach().clone() for name, rows in run.student.words.named_parameters()}
    stage = run.student_stage()
    rows = [stage.step() for _ in range(2)]
    assert set(rows[0]) >= {"embedding_lr", "concept"} and "lr" not in rows[0]
    assert all(torch.equal(frozen[name], weight) for name, weight in run.parts.model.transformer.named_parameters())
    assert all(not torch.equal(before[name], rows) for name, rows in run.student.words.named_parameters())
    branches, x_t, sigma = run.student.branches, torch.randn(1, 4, 8, 8), torch.tensor([0.5])
    for text, moves in (("a blue house", False), ("a sks dog", True)):
        prompts = [PromptBatch.of([run.parts.texts[text]], [None])]
        with torch.no_grad():
            now, then = (run.parts.velocity(branches[name], x_t, sigma, prompts) for name in (STUDENT, PRETRAINED))
        assert torch.equal(now, then) is not moves


def test_learned_words_that_are_the_triggers_own_rows_read_as_the_encoders_do(plan_of):
    run = ready(plan_of(method="textual_inversion"))
    parts, words, text = run.parts, run.student.words, "a sks dog"
    with torch.no_grad():
        for index, name in enumerate(("clip_l", "clip_g")):
            ids = words.tokenizers[index]("sks", add_special_tokens=False)["input_ids"]
            words.rows["dog"][name].copy_(words.table_of(index).weight[torch.tensor(ids)])
    read = run.student.branch.reader(PromptBatch.of([parts.texts[text]], ["dog"]))
    clips = parts.model.clip_length
    torch.testing.assert_close(read.context[0, :clips], parts.texts[text].states.context[:clips])
    torch.testing.assert_close(read.pooled[0], parts.texts[text].states.pooled)
    assert torch.equal(read.context[0, clips:], parts.texts["a dog"].states.context[clips:]), "T5 reads the base text"


def test_words_that_have_learned_are_read_again_whichever_optimizer_moved_them(plan_of):
    run = ready(plan_of(method="textual_inversion", optimizer_type="AdamW8bit", embedding_lr=1.0))
    prompts, stage = PromptBatch.of([run.parts.texts["a sks dog"]], ["dog"]), run.student_stage()
    with torch.no_grad():
        before, again = run.student.branch.reader(prompts).context, run.student.branch.reader(prompts).context
    stage.step()
    with torch.no_grad():
        after = run.student.branch.reader(prompts).context
    assert torch.equal(before, again) and not torch.equal(before, after)


def test_an_embedding_file_is_what_comfyui_loads_and_starts_from_the_class_word(plan_of):
    run = Run(plan_of(method="textual_inversion", max_train_steps=1, embedding_lr=0.0))
    files = run.train()
    file = run.folder / "tiny_embedding.safetensors"
    assert file in files and not (run.folder / "tiny.safetensors").exists()
    saved = load_file(file)
    assert {name: rows.shape for name, rows in saved.items()} == {
        "clip_l": (run.parts.layouts["dog"].counts[0], 16),
        "clip_g": (run.parts.layouts["dog"].counts[0], 16),
    }
    ids = torch.tensor(run.student.words.tokenizers[0]("dog", add_special_tokens=False)["input_ids"])
    start = run.student.words.table_of(0).weight[ids].mean(0)
    torch.testing.assert_close(saved["clip_l"], start.expand_as(saved["clip_l"]))
