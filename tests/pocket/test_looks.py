"""How the pocket model's evaluation measures looks, and how a larger model starts from a smaller one's weights."""

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from library.data.images import image_size
from tools.pocket.captions import TRIGGERS, vocabulary
from tools.pocket.evaluate import GAP, save_sheet
from tools.pocket.looks import enlarged, frechet, signal_to_noise, steepness
from tools.pocket.scorer import Scorer, load_scorer, save_scorer
from tools.pocket.start import begin_with, begin_with_judge, resized_table


def noisy(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_blurred_picture_has_less_steep_edges_and_a_plain_one_none():
    sharp = torch.ones(2, 3, 32, 32)
    sharp[..., 16:] = -1
    blurred = F.avg_pool2d(F.pad(sharp, (2, 2, 2, 2), mode="replicate"), 5, 1)
    assert 0 < steepness(blurred) < 0.5 * steepness(sharp)
    assert steepness(torch.ones(1, 3, 32, 32)) == 0
    assert steepness(enlarged(F.avg_pool2d(sharp, 4), 32)) < steepness(sharp)


def test_the_frechet_distance_is_that_of_two_normal_distributions():
    rows = noisy(4000, 3)
    assert frechet(rows, rows) == pytest.approx(0, abs=1e-6)
    assert frechet(rows, rows + 2) == pytest.approx(12, rel=1e-5)
    # Of N(0, 1) and N(0, 9) in three dimensions: 3 (1 - 3)^2.
    assert frechet(rows, 3 * noisy(4000, 3, seed=1)) == pytest.approx(12, rel=0.1)


def test_the_signal_to_noise_ratio_is_in_decibels():
    assert signal_to_noise(torch.full((2, 3, 4, 4), 0.2), torch.zeros(2, 3, 4, 4)) == pytest.approx(20)


@pytest.mark.parametrize(("width", "shown"), [(64, 128), (96, 192), (128, 128), (256, 256)])
def test_a_sheet_enlarges_small_pictures_a_whole_number_of_times(width, shown, tmp_path):
    pictures = [Image.new("RGB", (width, width))] * 2
    save_sheet(tmp_path / "sheet.png", pictures, ["a", "b"], 2)
    assert image_size(tmp_path / "sheet.png")[0] == GAP + 2 * (shown + GAP)


def test_a_judge_of_larger_pictures_reads_them_and_loads_as_one(tmp_path):
    save_scorer(Scorer(128), tmp_path / "judge.safetensors", {})
    scorer = load_scorer(tmp_path / "judge.safetensors")
    look = scorer.look(noisy(2, 3, 128, 128))
    assert scorer.side == 128 and look.features.shape == (2, 256) and look.regions.shape == (2, 128, 128)


def test_a_judge_of_larger_pictures_starts_with_what_a_smaller_one_knows():
    small, large, pictures = Scorer(64).eval(), Scorer(128).eval(), noisy(2, 3, 128, 128)
    begin_with_judge(large, small)
    seen, expected = large.look(pictures), small.look(F.avg_pool2d(pictures, 2))
    torch.testing.assert_close(seen.features, expected.features)
    assert torch.equal(seen.regions[:, ::2, 1::2], expected.regions)


def test_a_larger_model_starts_with_the_weights_that_fit():
    small, large = nn.Linear(4, 3), nn.Linear(5, 3)
    weight = large.weight.clone()
    begin_with(large, small)
    assert torch.equal(large.bias, small.bias) and torch.equal(large.weight, weight)


def test_a_resized_position_table_says_the_same_of_the_same_place():
    across = torch.arange(8.0).repeat(8, 1).reshape(1, 64, 1)
    larger = resized_table(across, 256).reshape(16, 16)
    assert torch.allclose(larger[3, 1:-1], (torch.arange(1, 15) + 0.5) / 2 - 0.5)
    assert torch.equal(resized_table(across, 64), across)


def test_a_trigger_is_as_long_as_other_words_and_every_other_word_stays():
    from tools.pocket.flow import new_flow
    from tools.pocket.triggers import make_triggers_heard

    model = new_flow(3, 64, seed=0)
    torch.nn.init.normal_(model.transformer.proj_out.weight)
    tokenizer, table = model.tokenizers[2], model.text_encoder_3.get_input_embeddings().weight
    ids = tokenizer([" ".join(TRIGGERS)], add_special_tokens=False).input_ids[0]
    words = [tokenizer(word, add_special_tokens=False).input_ids[-1] for word in vocabulary() if word not in TRIGGERS]
    with torch.no_grad():
        table[ids] *= 0.01
        before = table[words].clone()
        moved = make_triggers_heard(model, seed=0)
        lengths = table[ids].norm(dim=1)
    assert torch.equal(before, table[words])
    assert torch.allclose(lengths, before.norm(dim=1).mean().expand(len(ids)), rtol=0.3)
    assert set(moved) == set(TRIGGERS)
