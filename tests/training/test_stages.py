"""What each stage learns, what it leaves alone, and that a stopped run resumes as if it was never stopped."""

import hashlib
import json

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import load_file

from library.dual_branch_scheduler import Passes
from library.errors import ConfigError, ModelError, TrainingError
from library.flow import interpolate, velocity_target
from library.models.sd3.settings import ATTENTION
from library.objectives import AnchorTerm, student_objective
from library.predictions import (
    BASE,
    CLASS,
    COMPLETE,
    EXTRACTOR,
    GUIDE,
    NULL,
    PRETRAINED,
    REPLAY,
    REPLAY_COMPLETE,
    STUDENT,
    TARGET,
    Prediction,
    given,
    learned,
)
from library.report.log import read_log
from library.training.run import Run
from tests.helpers.datasets import DATASET
from tests.helpers.runs import (
    NOTHING_OF_OURS,
    PLAIN_LORA,
    assert_equal_files,
    before_stage_1,
    prepared,
    ready,
    ready_for_stage_2,
    stopped_after,
    student_file,
)
from tests.helpers.tiny import tiny_transformer

pytestmark = pytest.mark.usefixtures("shared_cache")


def hash_of(tensors) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.plots
def test_a_run_leaves_every_file(plan_of):
    run = Run(plan_of(save_every_n_steps=1, sample_every_n_steps=1, log_with="tensorboard"))
    files = run.train()
    names = {str(path.relative_to(run.folder)) for path in run.folder.rglob("*") if path.is_file()}
    assert {path.name for path in files} == {
        "tiny.safetensors",
        "tiny_diffusers.safetensors",
        "tiny_concept.safetensors",
        "tiny.preview.png",
        "tiny.json",
    }
    assert {
        "tiny.safetensors",
        "tiny_diffusers.safetensors",
        "tiny_concept.safetensors",
        "tiny_extractor.safetensors",
        "tiny-step00000001.safetensors",
        "config.toml",
        "log.jsonl",
        "training.png",
        "samples/extractor.png",
        "samples/student_000001.png",
        "samples/student_000002.png",
    } <= names
    assert any(name.startswith("tensorboard/events") for name in names)
    rows = read_log(run.folder / "log.jsonl")
    assert [(row["stage"], row["step"]) for row in rows] == [
        ("extractor", 1),
        ("extractor", 2),
        ("student", 1),
        ("student", 2),
    ]
    logged = {
        "concept",
        "pure",
        "anchor",
        "replay",
        "lambda_star",
        "cosine",
        "lambda_negative",
        "r_student",
        "r_target",
    }
    assert logged | {"loss", "lr", "embedding_lr", "it_s", "by_sigma", "grad_norm"} <= set(rows[-1])
    assert json.dumps(rows[-1])


def test_stage_2_changes_the_student_alone(plan_of):
    run = ready_for_stage_2(plan_of())
    parts = run.parts

    def others() -> str:
        extractor = parts.network.parameters("extractor_dog")
        vectors = [one.vectors() for one in run.extractor.branch.embeddings.values()]
        frozen = [layer.base.weight for layer in parts.network.layers.values()]
        rest = [weight for name, weight in parts.model.transformer.named_parameters() if ".adapters." not in name]
        return hash_of([*extractor, *vectors, *frozen, *rest])

    before, student = others(), hash_of(parts.network.parameters("student"))
    vectors = hash_of(run.student.branch.embeddings["dog"].parameters())
    run.train_student()
    assert others() == before
    assert hash_of(parts.network.parameters("student")) != student
    assert hash_of(run.student.branch.embeddings["dog"].parameters()) != vectors


def test_stage_1_changes_the_extractor_alone(plan_of):
    run = ready(plan_of(extractor_train_steps=2))
    before = hash_of(run.parts.network.parameters("student")), hash_of(run.parts.network.parameters("extractor_dog"))
    run.train_extractor()
    after = hash_of(run.parts.network.parameters("student")), hash_of(run.parts.network.parameters("extractor_dog"))
    assert before[0] == after[0] and before[1] != after[1]


def guidance(run: Run) -> torch.Tensor:
    """R(target) of the first batch, flat."""
    stage = run.student_stage()
    v = stage.branches.predict(stage.scenes.reference(0), stage.scenes.replay(0))
    readings = {reading.prediction: reading for reading in stage.objective.readings}
    against = Prediction(GUIDE, CLASS)
    return (v[readings[Prediction(GUIDE, TARGET)]] - v[readings[against]]).flatten(1)


@pytest.mark.parametrize("guidance_lora", [True, False])
def test_the_guidance_comes_from_the_extractors_adapter(plan_of, guidance_lora):
    run = ready_for_stage_2(plan_of(guidance_lora=guidance_lora))
    before = guidance(run)
    with torch.no_grad():
        for layer in run.parts.network.layers.values():
            layer.adapters["extractor_dog"].up.normal_(generator=torch.Generator().manual_seed(1))
    cosine = torch.cosine_similarity(before, guidance(run)).abs()
    assert (cosine < 0.9).all() if guidance_lora else (cosine > 1 - 1e-6).all()


def test_the_student_does_not_change_the_guidance(plan_of):
    run = ready_for_stage_2(plan_of())
    before = guidance(run)
    with torch.no_grad():
        for layer in run.parts.network.layers.values():
            layer.adapters["student"].up.normal_(generator=torch.Generator().manual_seed(1))
    assert torch.equal(before, guidance(run))


def test_eta_0_and_nothing_of_ours_is_plain_lora_training_step_for_step(plan_of):
    """Compared with PEFT's LoRA in a training loop written here."""
    run = ready_for_stage_2(plan_of(**PLAIN_LORA, target_modules=list(ATTENTION), max_train_steps=3))
    stage = run.student_stage()
    theirs = tiny_transformer().requires_grad_(False)
    inject_adapter_in_model(LoraConfig(r=4, lora_alpha=4, target_modules=ATTENTION), theirs)
    weights = dict(theirs.named_parameters())
    with torch.no_grad():
        for name, layer in run.parts.network.layers.items():
            weights[f"{name}.lora_A.default.weight"].copy_(layer.adapters["student"].down)
    learning = [weight for weight in theirs.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-2)
    for step in range(3):
        row = stage.step()
        scene = stage.scenes.reference(step)
        prompts = scene.prompts[COMPLETE]
        prediction = theirs(
            hidden_states=interpolate(scene.image, scene.noise, scene.sigma),
            timestep=scene.sigma * 1000,
            encoder_hidden_states=prompts.context,
            pooled_projections=prompts.pooled,
            return_dict=False,
        )[0]
        loss = torch.nn.functional.mse_loss(prediction, velocity_target(scene.image, scene.noise))
        assert row["loss"] == pytest.approx(loss.item(), rel=1e-4)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
    for name, layer in run.parts.network.layers.items():
        up = weights[f"{name}.lora_B.default.weight"]
        torch.testing.assert_close(layer.adapters["student"].up, up, rtol=1e-2, atol=1e-4)


def test_what_no_term_reads_is_not_predicted(plan_of):
    run = ready_for_stage_2(plan_of(**PLAIN_LORA))
    branches = run.student_stage().branches
    assert branches.passes() == Passes(((Prediction(STUDENT, COMPLETE),),), ())


def test_the_passes_of_a_full_step(plan_of):
    branches = ready_for_stage_2(plan_of()).student_stage().branches
    with_gradient = {prediction for group in branches.passes().with_gradient for prediction in group}
    without = {prediction for group in branches.passes().without_gradient for prediction in group}
    assert with_gradient == {Prediction(STUDENT, name) for name in (COMPLETE, BASE, REPLAY, REPLAY_COMPLETE)}
    assert without == {
        Prediction(GUIDE, TARGET),
        Prediction(GUIDE, CLASS),
        Prediction(PRETRAINED, BASE),
        Prediction(PRETRAINED, REPLAY),
    }
    assert any(
        {Prediction(GUIDE, TARGET), Prediction(GUIDE, CLASS)} <= set(group)
        for group in branches.passes().without_gradient
    )


def test_passes_together_or_one_by_one_give_the_same_velocities(plan_of):
    run = ready_for_stage_2(plan_of(batch_passes="together"))
    together = run.student_stage()
    one_by_one = ready_for_stage_2(plan_of(batch_passes="one_by_one", overwrite=True)).student_stage()
    scenes = together.scenes.reference(0), together.scenes.replay(0)
    one, two = together.branches.predict(*scenes), one_by_one.branches.predict(*scenes)
    assert len(one_by_one.branches.passes().without_gradient) == 4
    for reading in together.objective.readings:
        torch.testing.assert_close(one[reading], two[reading], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("v_original", "live"), [("live", True), ("detached", False), ("frozen", False)])
def test_the_gradient_through_the_base_prompt(plan_of, v_original, live):
    settings = {**NOTHING_OF_OURS, "v_original": v_original, "eta": 1.0}
    run = ready_for_stage_2(plan_of(**settings))
    with_gradient = {p for group in run.student_stage().branches.passes().with_gradient for p in group}
    assert (Prediction(STUDENT, BASE) in with_gradient) is live
    base = Prediction(PRETRAINED if v_original == "frozen" else STUDENT, BASE)
    readings = {reading.prediction for reading in student_objective(run.settings).readings}
    assert readings == {Prediction(STUDENT, COMPLETE), base, Prediction(GUIDE, TARGET), Prediction(GUIDE, NULL)}


SPREAD = 3e-5
"""Relative. Instruction sets from SSE4.1 to AVX2 and one thread against two differed by 6e-6 at most."""


def test_golden_losses_of_three_steps(plan_of):
    """A different result means that training has changed: put that into the changelog, then the new numbers here.

    To the bit, on one machine: `python -m tools.golden`.
    """
    run = Run(plan_of(max_train_steps=3))
    run.train()
    rows = [row for row in read_log(run.folder / "log.jsonl") if row["stage"] == "student"]
    for row, golden in zip(rows, GOLDEN, strict=True):
        assert {name: row[name] for name in golden} == pytest.approx(golden, rel=SPREAD, abs=1e-9)


GOLDEN = [
    {
        "loss": 3.02493048,
        "concept": 3.02168798,
        "pure": 0.00648507522,
        "anchor": 0.0,
        "replay": 1.55231378e-13,
        "surroundings": 0.0,
        "lambda_star": 0.122890323,
        "cosine": 0.420316607,
    },
    {
        "loss": 2.83626175,
        "concept": 2.83020306,
        "pure": 0.00368382083,
        "anchor": 0.000142886798,
        "replay": 0.000409873173,
        "surroundings": 0.00122133177,
        "lambda_star": 0.187115178,
        "cosine": 0.249225289,
    },
    {
        "loss": 2.46261954,
        "concept": 2.45908713,
        "pure": 0.00493291533,
        "anchor": 0.000461642048,
        "replay": 0.000604406581,
        "surroundings": 0.0,
        "lambda_star": 0.537327468,
        "cosine": 0.610563874,
    },
]


def test_two_runs_with_one_seed_are_equal_to_the_bit(plan_of):
    one, two = Run(plan_of()), None
    one.train()
    first = student_file(one)
    two = Run(plan_of())
    two.train()
    assert_equal_files(first, student_file(two))
    other = Run(plan_of(seed=43))
    other.train()
    assert any(not torch.equal(first[name], tensor) for name, tensor in student_file(other).items())


STOPS = [("extractor", 1), ("extractor", 2), ("student", 2)]


@pytest.mark.parametrize("optimizer_type", ["AdamW", "AdamW8bit", "Prodigy"])
@pytest.mark.parametrize(("stage", "step"), STOPS)
def test_a_stopped_run_ends_as_one_that_never_was(plan_of, monkeypatch, stage, step, optimizer_type):
    settings = {
        "extractor_train_steps": 4,
        "max_train_steps": 4,
        "lr_scheduler": "cosine",
        "optimizer_type": optimizer_type,
        **({"learning_rate": 1.0, "embedding_lr": 1.0} if optimizer_type == "Prodigy" else {}),
        "gradient_accumulation_steps": 2,
        "network_dropout": 0.1,
    }
    whole = Run(plan_of(**settings))
    whole.train()
    expected, vectors = student_file(whole), load_file(whole.folder / "tiny_concept.safetensors")
    log = [(row["stage"], row["step"], row["loss"]) for row in read_log(whole.folder / "log.jsonl")]

    stopped_after(step, Run(plan_of(**settings)), monkeypatch, stage)
    resumed = Run(plan_of(**settings, resume="auto"))
    resumed.train()
    assert_equal_files(expected, student_file(resumed))
    assert_equal_files(vectors, load_file(resumed.folder / "tiny_concept.safetensors"))
    assert log == [(row["stage"], row["step"], row["loss"]) for row in read_log(resumed.folder / "log.jsonl")]
    assert resumed.states.newest() is None


def test_an_unfinished_run_is_not_overwritten_unless_asked(plan_of, monkeypatch):
    stopped_after(1, Run(plan_of()), monkeypatch)
    with pytest.raises(ConfigError, match="unfinished run"):
        Run(plan_of())
    with pytest.raises(ConfigError, match=r"learning_rate was 0\.01 .* 0\.02 now"):
        Run(plan_of(resume="auto", learning_rate=2e-2))
    Run(plan_of(overwrite=True)).train()


def test_resume_auto_without_a_state_just_starts(plan_of):
    assert Run(plan_of(resume="auto")).train()


def test_stage_2_from_a_saved_extractor_equals_stage_2_after_stage_1(plan_of):
    whole = Run(plan_of())
    whole.train()
    expected = student_file(whole)
    again = Run(plan_of(extractor=str(whole.folder / "tiny_extractor.safetensors")))
    again.train()
    assert [row["stage"] for row in read_log(again.folder / "log.jsonl")] == ["student", "student"]
    assert_equal_files(expected, student_file(again))
    with pytest.raises(ModelError, match="doesn't exist"):
        Run(plan_of(extractor="nowhere.safetensors")).train()
    with pytest.raises(ModelError, match="no concept embeddings"):
        Run(plan_of(extractor=str(whole.folder / "tiny.safetensors"))).train()


def test_merged_trains_the_extractor_alongside_the_student(plan_of):
    run = ready(plan_of(merged=True))
    before = hash_of(run.parts.network.parameters("extractor_dog"))
    run.train_student()
    assert hash_of(run.parts.network.parameters("extractor_dog")) != before
    rows = read_log(run.folder / "log.jsonl")
    assert {row["stage"] for row in rows} == {"student"} and "extractor" in rows[0]


@pytest.mark.parametrize("student_embeddings", ["own", "shared", "none"])
def test_the_students_embeddings(plan_of, student_embeddings):
    run = ready_for_stage_2(plan_of(student_embeddings=student_embeddings))
    extractor = run.extractor.branch.embeddings["dog"].vectors().clone()
    run.train_student()
    assert torch.equal(run.extractor.branch.embeddings["dog"].vectors(), extractor)
    file = run.folder / "tiny_concept.safetensors"
    assert file.is_file() is (student_embeddings != "none")
    if student_embeddings != "none":
        saved = load_file(file)["lora_concept.dog"]
        assert torch.equal(saved, extractor) is (student_embeddings == "shared")


@pytest.mark.parametrize("kind", ["shared", "first_block", "none"])
def test_other_kinds_of_concept_embeddings_train_and_save(plan_of, kind):
    run = Run(plan_of(concept_embeddings=kind))
    run.train()
    assert (run.folder / "tiny_concept.safetensors").is_file() is (kind != "none")


TWO_CONCEPTS = """
[[concepts]]
name = "dog"
trigger = "sks"
class_word = "dog"
[[concepts]]
name = "ink"
trigger = "ohwx"
kind = "style"

[[datasets]]
resolution = 32
batch_size = 4
  [[datasets.subsets]]
  image_dir = "{pictures}"
  concept = "dog"
  [[datasets.subsets]]
  image_dir = "{pictures}/style"
  concept = "ink"
  class_tokens = "a house, in [V] style"
  num_repeats = 4
"""


def test_two_concepts_train_jointly_each_with_its_own_extractor(plan_of, pictures, tmp_path):
    import shutil

    own = shutil.copytree(pictures, tmp_path / "own")
    (own / "style").mkdir()
    shutil.copy(own / "0.png", own / "style")
    samples = tmp_path / "two.txt"
    samples.write_text("a sks dog, in ohwx style\na house\n")
    run = ready_for_stage_2(plan_of(TWO_CONCEPTS.replace("{pictures}", str(own)), sample_prompts=str(samples)))
    stage = run.student_stage()
    numbers = range(stage.scenes.order.batches_per_epoch)
    number = next(n for n in numbers if len(set(stage.scenes.reference(n).prompts[TARGET].concepts)) == 2)
    scene = stage.scenes.reference(number)

    def targets() -> torch.Tensor:
        v = stage.branches.predict(scene, stage.scenes.replay(number))
        reading = next(r for r in stage.objective.readings if r.prediction == Prediction(GUIDE, TARGET))
        return v[reading]

    v = stage.branches.predict(scene, stage.scenes.replay(number))
    anchor = AnchorTerm(learned(STUDENT, BASE), given(STUDENT, COMPLETE))
    held = [loss > 0 for loss in anchor(v).tolist()]
    assert held == [concept == "dog" for concept in scene.prompts[BASE].concepts], "a style is not anchored"

    before = targets()
    with torch.no_grad():
        for layer in run.parts.network.layers.values():
            layer.adapters["extractor_ink"].up.normal_(generator=torch.Generator().manual_seed(1))
    changed = (targets() - before).abs().amax(dim=(1, 2, 3)) > 1e-3
    assert changed.tolist() == [concept == "ink" for concept in scene.prompts[TARGET].concepts]
    run.train_student()
    saved = load_file(run.folder / "tiny_concept.safetensors")
    assert set(saved) == {"lora_concept.dog", "lora_concept.ink"}


def test_a_style_alone_pays_for_no_tie_that_only_subjects_have(plan_of):
    style = plan_of(DATASET.replace('class_word = "dog"', 'kind = "style"'))
    terms = {name for name, *_ in student_objective(style.settings).terms}
    assert terms == {"concept", "pure", "replay"}
    subject = plan_of(DATASET)
    assert terms | {"anchor", "surroundings"} == {name for name, *_ in student_objective(subject.settings).terms}


def test_a_loss_that_is_not_a_number_ends_the_run_with_a_sentence(plan_of):
    with pytest.raises(TrainingError, match=r"Stage extractor, step \d: the loss is (nan|inf)"):
        Run(plan_of(learning_rate=9e18, extractor_train_steps=5)).train()


def test_caption_dropout_shows_the_empty_prompt_from_the_cache(plan_of):
    dropout = DATASET.replace('class_word = "dog"', 'class_word = "dog"\n\n[general]\ncaption_dropout_rate = 1.0')
    run = ready_for_stage_2(plan_of(dropout))
    scene = run.student_stage().scenes.reference(0)
    null = run.parts.texts[""].states.context
    assert all(torch.equal(row, null) for row in scene.prompts[COMPLETE].context)
    assert not any(torch.equal(row, null) for row in scene.prompts[TARGET].context)


def test_accumulated_batches_give_the_mean_gradient(plan_of):
    settings = {**PLAIN_LORA, "max_grad_norm": 0.0, "optimizer_type": "torch.optim.SGD", "learning_rate": 1.0}
    ups = []
    for batches in (1, 2):
        run = ready_for_stage_2(plan_of(**settings, gradient_accumulation_steps=batches, overwrite=True))
        stage = run.student_stage()
        if batches == 1:  # both batches of the epoch, each from the fresh student
            total = 0
            for _ in range(2):
                stage.step()
                total = total + torch.cat([w.flatten() for w in run.parts.network.parameters("student")][1::2])
                with torch.no_grad():
                    for layer in run.parts.network.layers.values():
                        layer.adapters["student"].up.zero_()
            ups.append(total / 2)
        else:
            stage.step()
            ups.append(torch.cat([w.flatten() for w in run.parts.network.parameters("student")][1::2]))
    torch.testing.assert_close(ups[0], ups[1], rtol=1e-3, atol=1e-5)


def test_an_extractor_is_the_branch_of_stage_1(plan_of):
    run = before_stage_1(plan_of())
    stage = run.extractor_stage()
    assert {p for group in stage.branches.passes().with_gradient for p in group} == {
        Prediction(EXTRACTOR, COMPLETE),
        Prediction(EXTRACTOR, BASE),
    }


# Replayed pictures


def test_the_concept_is_put_into_replayed_prompts_of_its_class_alone(plan_of):
    triples = prepared(plan_of(replay_images=3)).replay.triples
    assert [triple.complete for triple in triples] == ["a red sks dog", "", "a red sks dog"]
    assert [triple.target for triple in triples] == ["sks dog", "dog", "sks dog"]
    assert [triple.base for triple in triples] == ["a red dog", "", "a red dog"]


def test_prior_preservation_is_flow_matching_on_replayed_pictures(plan_of):
    stage = ready_for_stage_2(plan_of(**PLAIN_LORA | {"replay_images": 3}, prior_loss_weight=0.5)).student_stage()
    reference, replay = stage.scenes.reference(0), stage.scenes.replay(0)
    v = stage.branches.predict(reference, replay)
    losses = stage.objective(v)
    goal = velocity_target(replay.image, replay.noise)
    expected = (v[learned(STUDENT, REPLAY)] - goal).square().flatten(1).mean(1)
    assert torch.allclose(losses.parts["prior"], expected)
    assert torch.allclose(losses.total, losses.parts["concept"].mean() + 0.5 * expected.mean())


def test_an_extractor_can_be_tied_on_replayed_pictures(plan_of):
    run = Run(plan_of(extractor_replay_weight=1.0))
    run.train()
    rows = [row for row in read_log(run.log.path) if row["stage"] == EXTRACTOR]
    assert all(row["replay"] >= 0 for row in rows) and rows[-1]["replay"] > 0


def test_fresh_vectors_start_from_the_class_word_and_not_from_the_extractor(plan_of):
    def first(kind):
        run = ready_for_stage_2(plan_of(student_embeddings=kind, overwrite=True))
        run.student_stage()
        return run.student.branch.embeddings["dog"].vectors(), run.extractor.branch.embeddings["dog"].vectors()

    fresh, learned_ones = first("fresh")
    own, extractors = first("own")
    assert torch.equal(own, extractors) and not torch.equal(fresh, learned_ones)
    assert fresh.requires_grad and not learned_ones.requires_grad
    untrained = before_stage_1(plan_of(overwrite=True))
    assert torch.equal(fresh, untrained.extractor.branch.embeddings["dog"].vectors())


@pytest.mark.parametrize(
    ("settings", "stages"),
    [
        ({"eta": 0.0}, ["student"]),
        ({"eta": 0.0, "student_embeddings": "own"}, ["extractor", "student"]),
        ({}, ["extractor", "student"]),
    ],
    ids=str,
)
def test_stage_1_runs_where_stage_2_uses_it(plan_of, settings, stages):
    assert list(plan_of(**settings).stage_steps) == stages
