"""What the doctor finds, each in a data set that has just that, and nothing in one that is well."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from benchmarks.counts import full_size_plan
from library.config.settings import ModelSettings
from library.data.inspection import look_at
from library.data.pictures import Picture
from library.preflight.doctor import findings
from library.preflight.finding import describe_findings
from library.preflight.machine import this_machine, unused_card
from tests.helpers.machines import GOOD, said_of
from tests.helpers.places import ROOT

DATASET = (
    '[[concepts]]\nname = "dog"\ntrigger = "{trigger}"\nclass_word = "dog"\n'
    '[[datasets]]\nresolution = 32\n{dataset}[[datasets.subsets]]\nimage_dir = "{folder}"\n{subset}'
)
CAPTIONS = ["a [V] dog, city", "a [V] dog, night", "a [V] dog, grass"]


def photo(seed: int, side: int = 48) -> Image.Image:
    """Patches of many sizes, so that there are coarse and fine details."""
    chance = np.random.default_rng(seed)
    pixels = np.zeros((side, side, 3))
    for cells in (4, 12, side):
        pixels += np.kron(chance.random((cells, cells, 3)), np.ones((side // cells, side // cells, 1)))
    return Image.fromarray((pixels / 3 * 255).astype(np.uint8))


@pytest.fixture
def found(plan_of, tmp_path):
    """What is found in these pictures with these captions."""

    def make(pictures=None, captions=CAPTIONS, trigger="sks", subset="", steps=400, dataset="", **more) -> str:
        folder = tmp_path / "dogs"
        folder.mkdir(exist_ok=True)
        for index, picture in enumerate(pictures or [photo(seed) for seed in range(3)]):
            picture.save(folder / f"{index}.png")
            if index < len(captions):
                (folder / f"{index}.txt").write_text(captions[index])
        text = DATASET.format(trigger=trigger, folder=folder, subset=subset, dataset=dataset)
        plan = plan_of(text, max_train_steps=steps, extractor_train_steps=400, t5xxl_max_token_length=77, **more)
        return describe_findings(findings(plan))

    return make


def test_nothing_is_found_where_all_is_well(found):
    assert found() == "No problems found."


def test_a_run_that_is_counted_in_epochs_is_not_told_to_raise_its_steps(plan_of, tmp_path):
    (tmp_path / "dogs").mkdir()
    photo(0).save(tmp_path / "dogs" / "0.png")
    text = DATASET.format(trigger="sks", folder=tmp_path / "dogs", dataset="", subset='class_tokens = "a dog"\n')
    said = describe_findings(findings(plan_of(text, max_train_epochs=5, max_train_steps=400)))
    assert "max_train_epochs" in said and "max_train_steps" not in said


def test_the_trigger_that_is_advised_is_not_found_fault_with(tmp_path):
    plan = full_size_plan(tmp_path, str(ROOT / "presets" / "pure.toml"), resolution=256)  # its trigger is ohwx
    assert plan.parts.layouts["subject"].counts[0] == 1 and "ohwx" not in describe_findings(findings(plan))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"steps": 5}, "student trains for only 5 steps"),
        ({"captions": CAPTIONS[:2], "subset": 'class_tokens = "a dog"\n'}, "1 of 3 images have no caption of their"),
        ({"captions": ["a dog, city", *CAPTIONS[1:]]}, "1 captions contain neither [V] nor the trigger: 0.png"),
        ({"captions": ["a [V], city", *CAPTIONS[1:]]}, '1 captions lack the class word "dog": 0.png'),
        ({"captions": ["a red [V] dog, city", *CAPTIONS[1:]]}, '"red" in 0.png'),
        ({"captions": ["a [V] red dog, city", *CAPTIONS[1:]]}, '"red" in 0.png'),
        ({"captions": [f"{caption}, house" for caption in CAPTIONS]}, 'Every caption of dog contains "house"'),
        ({"captions": [f"{CAPTIONS[0]} night city grass house", *CAPTIONS[1:]]}, "Captions are cut off 2 times"),
        ({"trigger": "house"}, 'already knows the trigger "house"'),
        ({"trigger": "q1x7zv9kw"}, 'The trigger "q1x7zv9kw" has '),
        ({"pictures": [photo(0), photo(1), photo(0)]}, "0.png and 2.png are the same file"),
        (
            {"pictures": [photo(0), photo(1), photo(0).point(lambda value: min(255, value + 4))]},
            "0.png and 2.png are nearly the same",
        ),
        ({"pictures": [photo(0), photo(1), photo(2, 12)]}, "1 images are smaller than the training resolution"),
        (
            {"pictures": [photo(0), photo(1), photo(2).filter(ImageFilter.GaussianBlur(6))]},
            "may be blurred: 2.png",
        ),
        ({"pictures": [photo(0)], "captions": CAPTIONS[:1]}, "dog has only 1 image"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_is_found(found, given, said):
    assert said in found(**given)


@pytest.mark.parametrize("written", ["[trigger]", "[v]", "{name}"])
def test_a_placeholder_of_another_program_is_found_in_captions_and_prompts(found, tmp_path, written):
    said = found(captions=[f"a {written} dog, city", *CAPTIONS[1:]])
    assert f'"{written}" has no meaning here and will be learned as plain text: 0.png.' in said and "Write [V]" in said
    assert "neither [V]" not in said, "one thing is said once"
    (tmp_path / "prompts.txt").write_text(f"a {written} dog\n")
    said = found(sample_prompts=str(tmp_path / "prompts.txt"))
    assert f'"{written}" has no meaning' in said and f'the prompt "a {written} dog"' in said


def test_a_trigger_that_looks_like_a_placeholder_is_no_fault(found):
    captions = [caption.replace("[V]", "<v>") for caption in CAPTIONS]
    assert "has no meaning here" not in found(captions=captions, trigger="<v>")


WIDE = [photo(seed).resize((192, 48)) for seed in range(3)]


@pytest.mark.parametrize(
    ("dataset", "subset", "said", "remedy"),
    [
        ("", "", "0.png 75%, 1.png 75%, 2.png 75%", "Set enable_bucket"),
        ("enable_bucket = true\n", "", "0.png 75%", "lower min_bucket_reso and raise max_bucket_reso (256 and 2048"),
        ("enable_bucket = true\nmin_bucket_reso = 16\nbucket_reso_steps = 16\n", "", None, None),
        ("", "random_crop = true\n", None, None),
    ],
)
def test_what_cropping_cuts_away_is_found(found, dataset, subset, said, remedy):
    text = found(pictures=WIDE, dataset=dataset, subset=subset)
    assert (said in text and remedy in text) if said else "cut off" not in text


def test_the_share_that_is_cut_away_is_that_of_the_pixels():
    def cut_away(size, original):
        return Picture(Path("a.png"), original, size, None, None, ()).cut_away

    assert cut_away((32, 32), (64, 64)) == cut_away((64, 64), (16, 16)) == 0
    assert cut_away((32, 32), (48, 32)) == pytest.approx(1 / 3)
    assert cut_away((64, 16), (16, 16)) == pytest.approx(3 / 4)


@pytest.mark.parametrize(("repeats", "is_found"), [(1, True), (4, False)])
def test_batches_that_buckets_leave_half_empty_are_found(found, repeats, is_found):
    shapes = [photo(0), photo(1).resize((96, 48)), photo(2).resize((48, 96))]
    dataset = "batch_size = 4\nenable_bucket = true\nmin_bucket_reso = 16\nbucket_reso_steps = 16\n"
    said = found(pictures=shapes, dataset=dataset, subset=f"num_repeats = {repeats}\n")
    assert ("1.0 images on average instead of 4" in said and "3 batches instead of 1" in said) is is_found
    assert "on average" not in found(dataset=dataset), "three pictures are no batch of four, buckets or none"


class Animated:
    """Two pictures in one file."""

    def save(self, path) -> None:
        photo(2).save(path, save_all=True, append_images=[photo(3)])


def test_a_file_of_several_pictures_is_found(found):
    assert "1 files contain more than one image: 2.png" in found(pictures=[photo(0), photo(1), Animated()])


def test_of_many_pictures_some_are_looked_at_and_all_are_compared_by_content(found, monkeypatch):
    monkeypatch.setattr("library.preflight.doctor.MOST_LOOKED_AT", 3)
    monkeypatch.setattr("library.preflight.doctor.MOST_PAIRS", 2)
    looked = []
    monkeypatch.setattr("library.preflight.doctor.look_at", lambda path: looked.append(path.name) or look_at(path))
    said = found(pictures=[photo(seed % 5) for seed in range(8)], captions=CAPTIONS * 2 + CAPTIONS[:2])
    assert looked == ["0.png", "3.png", "6.png"]
    assert said.count("are the same file") == 2 and "1 more pairs of images are the same" in said


def test_one_background_is_found(found):
    pictures = []
    for seed in range(3):
        wall = photo(9)
        wall.paste(photo(seed).resize((24, 24)), (12, 12))
        pictures.append(wall)
    assert "nearly the same background" in found(pictures)


# The computer


def test_nothing_is_found_on_a_good_computer():
    assert said_of({}) == "No problems found."


@pytest.mark.parametrize(("works", "device", "count"), [(False, "auto", 1), (False, "cpu", 0), (True, "auto", 0)])
def test_a_run_on_the_cpu_says_why_the_card_is_not_used(works, device, count):
    settings = ModelSettings(pretrained_model_name_or_path="m", device=device)
    found = unused_card(replace(GOOD, works=works), settings)
    assert ["Update the driver" in one.remedy for one in found] == [True] * count


@pytest.mark.parametrize(
    ("machine", "settings", "said", "remedy"),
    [
        ({"works": False, "cuda": None}, {}, "PyTorch was built without CUDA", "Install PyTorch for your GPU"),
        ({"works": False}, {}, "can't use it with driver 580.10: it was built for CUDA 13.0", "Update the driver"),
        ({"capability": (7, 0)}, {}, "not built for RTX 3060, compute capability 7.0", "Install PyTorch"),
        ({"card": None, "works": False}, {}, "24 blocks on the CPU", "--card"),
        ({}, {"device": "cpu"}, "24 blocks on the CPU", "NVIDIA GPU"),
        ({"capability": (7, 5), "architectures": ("sm_75",)}, {}, "RTX 3060 does not support bf16", '"fp16"'),
        ({}, {"mixed_precision": "no"}, "everything runs in float32", '"bf16"'),
        ({}, {"mixed_precision": "fp16", "device": "cpu"}, "On a CPU, fp16", '"bf16"'),
        ({"free": 7 * 2**30}, {}, "Other programs use 5.0 of the GPU's 12.0 GiB", "Close ComfyUI"),
        ({"packages": {"peft": ("0.2", "0.1")}}, {}, "peft is 0.1 instead of 0.2", "pip install -r"),
        ({"packages": {"peft": ("0.2", None)}}, {}, "peft 0.2 is missing", "pip install -r"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_with_the_computer_is_found(machine, settings, said, remedy):
    found = said_of(machine, **settings)
    assert said in found and remedy in found


def test_a_run_that_is_planned_for_another_card_or_small_may_be_planned_on_a_cpu():
    no_card = {"card": None, "works": False}
    assert said_of(no_card, card="RTX 3060") == said_of(no_card, vram_gb=8.0) == "No problems found."
    assert said_of(no_card, blocks=6) == "No problems found."


@pytest.mark.parametrize(
    ("capability", "architectures", "fits"),
    [
        ((8, 9), ("sm_80", "sm_86"), True),
        ((12, 0), ("sm_80", "sm_90"), False),
        ((12, 0), ("sm_90", "compute_90"), True),
        ((8, 6), ("sm_89",), False),
        ((9, 0), ("sm_90a",), True),
        ((11, 0), ("gfx1100",), True),  # AMD's
    ],
)
def test_older_code_of_the_same_generation_runs_on_a_card(capability, architectures, fits):
    found = said_of({"capability": capability, "architectures": architectures})
    assert ("was not built for" not in found) is fits


def test_this_computer_is_looked_at():
    machine = this_machine()
    assert machine.packages["torch"][0] and set(machine.packages) >= {"torch", "diffusers"}
    assert machine.works is torch.cuda.is_available()
