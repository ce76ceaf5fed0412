"""Masks, regularisation pictures, crops, the validation split and steps counted in epochs, all with the caches."""

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from library.data.pictures import Draw
from library.errors import ConfigError, DataError
from library.flow import draw_sigma, mse
from library.objectives import student_objective
from library.predictions import COMPLETE, STUDENT, Prediction, Truth, learned
from library.preflight.plan import in_steps
from library.report.log import read_log, summary
from library.training.run import Run
from tests.helpers.datasets import DOGS, HEAD
from tests.helpers.predictions import velocities
from tests.helpers.runs import ready, stopped_after

pytestmark = pytest.mark.usefixtures("shared_cache")


def test_masked_areas_do_not_count():
    prediction, goal = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    emphasis = torch.ones(2, 1, 8, 8)
    torch.testing.assert_close(mse(prediction, goal, emphasis), mse(prediction, goal))
    emphasis[0, :, :, 4:] = 0
    other = prediction.clone()
    other[0, :, :, 4:] += 100
    torch.testing.assert_close(mse(other, goal, emphasis), mse(prediction, goal, emphasis))
    term = student_objective_of_plain_lora()
    v = {Prediction(STUDENT, COMPLETE): other}
    sigma = torch.zeros(len(goal))
    assert term(velocities(v, Truth(goal, sigma, emphasis))).max() < 10 < term(velocities(v, Truth(goal, sigma))).max()


def student_objective_of_plain_lora():
    from library.objectives import ConceptTerm

    return ConceptTerm(learned(STUDENT, COMPLETE))


def test_masks_follow_their_pictures(plan_of, pictures, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    for index in range(4):
        mask = Image.new("L", (32, 32), 0)
        mask.paste(255, (0, 0, 16, 32))
        mask.save(masks / f"{index}.png")
    text = HEAD + DOGS + f'flip_aug = true\nconditioning_data_dir = "{masks}"\n'
    plan = plan_of(text, masked_loss=True)
    run = Run(plan)
    run.latents.prepare(plan.pictures)
    picture = plan.pictures[0]
    plain, mirrored = (run.latents.emphasis([Draw(picture, picture.prompts[0], flip)])[0, 0] for flip in (False, True))
    assert plain.shape == run.latents.mean(picture).shape[1:]
    assert torch.equal(plain, mirrored.flip(-1)) and plain[0, 0] == 1 and plain[0, -1] == 0
    (masks / "2.png").unlink()
    with pytest.raises(DataError, match=r"2\.png has no mask"):
        plan_of(text, masked_loss=True)


def test_alpha_masks_and_plain_pictures_share_a_batch(plan_of, tmp_path):
    folder = tmp_path / "alpha"
    folder.mkdir()
    Image.new("RGBA", (32, 32), (255, 0, 0, 0)).save(folder / "clear.png")
    Image.new("RGB", (32, 32), "red").save(folder / "whole.png")
    plan = plan_of(f'{HEAD}[[datasets.subsets]]\nimage_dir = "{folder}"\nclass_tokens = "a dog"\nalpha_mask = true\n')
    run = Run(plan)
    run.latents.prepare(plan.pictures)
    emphasis = run.latents.emphasis([Draw(picture, picture.prompts[0], False) for picture in plan.pictures])
    assert emphasis[0].max() == 0 and emphasis[1].min() == 1


def test_regularisation_pictures_come_as_often_and_with_their_weight(plan_of, reg):
    plan = plan_of(HEAD + DOGS + "num_repeats = 2\n" + reg, prior_loss_weight=0.25, replay_images=0)
    seen = set()
    for epoch in range(3):
        numbers = range(epoch * plan.order.batches_per_epoch, (epoch + 1) * plan.order.batches_per_epoch)
        draws = [draw for number in numbers for draw in plan.order.batch(number)]
        of_reg = [draw.picture.path.name for draw in draws if draw.picture.subset.is_reg]
        assert len(of_reg) == len(draws) - len(of_reg) == 8
        seen |= set(of_reg)
    assert seen == {"r0.png", "r1.png", "r2.png"}
    run = Run(plan)
    run.latents.prepare(plan.pictures)
    dog, red = plan.pictures[0], next(picture for picture in plan.pictures if picture.subset.is_reg)
    emphasis = run.latents.emphasis([Draw(dog, dog.prompts[0], False), Draw(red, red.prompts[0], False)])
    assert emphasis.flatten(1).unique(dim=1).flatten().tolist() == [1.0, 0.25]
    assert "prior" not in {name for name, *_ in student_objective(plan.settings, plan.has_reg).terms}


def test_regularisation_pictures_are_not_guided_and_not_measured(plan_of, reg):
    """Even with a fixed lambda and guidance against the empty prompt, they have no pure loss."""
    pure = {"lambda": 1.0, "guidance_against": "null", "replay_images": 0, "v_original": "detached"}
    run = ready(plan_of(HEAD + DOGS + reg, **pure))
    stage = run.student_stage()
    number = next(n for n in range(20) if len({d.picture.subset.is_reg for d in run.plan.order.batch(n)}) == 2)
    draws, scene = run.plan.order.batch(number), stage.scenes.reference(number)
    losses = stage.objective(stage.branches.predict(scene))
    for row, draw in enumerate(draws):
        assert (losses.parts["pure"][row] == 0) == draw.picture.subset.is_reg
        assert losses.measures["cosine"][row].isnan() == draw.picture.subset.is_reg
    numbers = summary(scene.sigma, losses.parts, losses.measures)
    assert numbers["cosine"] == numbers["cosine"], "the mean is that of the others"


def test_pictures_that_only_tie_teach_nothing(plan_of, reg):
    text = HEAD + DOGS + reg + "custom_attributes = {{diff_output_preservation = true}}\n"
    plan = plan_of(text)
    run = Run(plan)
    run.latents.prepare(plan.pictures)
    red = next(picture for picture in plan.pictures if picture.subset.is_reg)
    assert run.latents.emphasis([Draw(red, red.prompts[0], False)]).max() == 0
    with pytest.raises(ConfigError, match="anchor_weight is 0"):
        plan_of(text, anchor_weight=0.0)


def test_a_run_with_all_of_it(plan_of, reg, tmp_path):
    """Shuffled tags, random crops, mirrored, masks by alpha, regularisation and validation, encoded once."""
    text = (
        HEAD + "validation_split = 0.25\n" + DOGS + "shuffle_caption = true\nrandom_crop = true\nflip_aug = true\n"
        "alpha_mask = true\ncaption_dropout_rate = 0.3\n" + reg
    )
    plan = plan_of(
        text, validate_every_n_steps=1, random_crop_variants=2, caption_variants=3, cache_dir=str(tmp_path / "own")
    )
    assert len(plan.validation) == 1
    run = Run(plan)
    run.train()
    rows = [row for row in read_log(run.folder / "log.jsonl") if row["stage"] == "student"]
    assert all(row["validation"] > 0 for row in rows) and len({row["validation"] for row in rows}) == 2
    cached = list((run.parts.cache.folder / "latents").rglob("*.safetensors"))
    assert len(cached) == 4 * 2 * 2 + 3, "four dogs in two crops, each mirrored, and three others"


def test_the_validation_loss_is_always_on_the_same_noise(plan_of):
    run = Run(plan_of(HEAD + "validation_split = 0.5\n" + DOGS, network_dropout=0.5, validate_every_n_epochs=3))
    assert run.validation.every == 3 * run.plan.order.batches_per_epoch
    run.open_log()
    run.prepare()
    run.build_extractor()
    run.build_student()
    seen = run.parts, run.student.branch
    assert run.validation.of(*seen) == run.validation.of(*seen) > 0
    assert {picture.path for picture in run.plan.validation}.isdisjoint(
        draw.picture.path for number in range(20) for draw in run.plan.order.batch(number)
    )


def test_random_crops_are_few_and_always_the_same(plan_of):
    text = HEAD + DOGS + "random_crop = true\n"
    one, two, other = plan_of(text), plan_of(text), plan_of(text, seed=1)
    crops = [picture.crops for picture in one.pictures]
    assert crops == [picture.crops for picture in two.pictures] != [picture.crops for picture in other.pictures]
    assert all(len(set(places)) == 4 for places in crops)
    assert len({draw.crop for number in range(20) for draw in one.order.batch(number)}) > 1


def test_epochs_are_steps(plan_of):
    plan = plan_of(max_train_epochs=5, save_every_n_epochs=2, sample_every_n_epochs=1, gradient_accumulation_steps=2)
    assert plan.order.batches_per_epoch == 2
    assert (plan.stage_steps["student"], plan.settings.saving.save_every_n_steps) == (5, 2)
    assert plan.settings.samples.sample_every_n_steps == 1
    assert in_steps(plan.settings, 2) == plan.settings == plan.parts.settings


def test_noise_levels_stay_in_their_range():
    sigma = draw_sigma(200, "uniform", torch.Generator().manual_seed(0), least=0.1, most=0.4)
    assert 0.1 <= sigma.min() < 0.15 and 0.35 < sigma.max() <= 0.4


def test_all_pictures_that_can_not_be_used_are_named(plan_of, tmp_path):
    folder = tmp_path / "bad"
    folder.mkdir()
    for index in range(2):
        Image.new("RGB", (32, 32)).save(folder / f"{index}.png")
    (folder / "2.png").write_bytes(b"no picture")
    with pytest.raises(DataError) as error:
        plan_of(f'{HEAD}[[datasets.subsets]]\nimage_dir = "{folder}"\n')
    for name in ("0.png", "1.png", "2.png"):
        assert name in str(error.value)


def test_a_stopped_run_with_all_of_it_ends_like_an_unbroken_one(plan_of, reg, monkeypatch):
    """Validation and random captions and crops leave no trace: everything follows from seed and step."""
    text = (
        HEAD + "validation_split = 0.25\n" + DOGS + "shuffle_caption = true\ncaption_tag_dropout_rate = 0.3\n"
        "random_crop = true\nflip_aug = true\ncaption_dropout_rate = 0.3\n" + reg
    )
    settings = {
        "max_train_steps": 6,
        "network_dropout": 0.1,
        "lr_scheduler": "warmup_stable_decay",
        "lr_decay_steps": 3,
    }

    whole = Run(plan_of(text, **settings, validate_every_n_steps=1))
    whole.train()
    expected = load_file(whole.folder / "tiny.safetensors")
    stopped_after(3, Run(plan_of(text, **settings)), monkeypatch)
    resumed = Run(plan_of(text, **settings, resume="auto"))
    resumed.train()
    found = load_file(resumed.folder / "tiny.safetensors")
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
