"""Several concepts: fused in closed form, or learned one by one in separate subspaces."""

import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

import purecc_fuse
from library.adapters.files import load_lora
from library.adapters.network import LayerWeights
from library.adapters.penalties import Overlap
from library.config.dataset import Concept
from library.config.files import read_settings
from library.convert import fusing
from library.convert.aggregation import aggregated, aggregation_weights
from library.convert.fusing import Aggregation, Fusion, aggregate, fuse, scenes, target_texts, weighed
from library.convert.gradient_fusion import fused, fused_by_lbfgs, fusion_loss
from library.dual_branch_scheduler import PRETRAINED_BRANCH
from library.errors import ConfigError, ModelError
from library.parts.parts import build_parts
from library.training.run import Run
from tests.helpers.datasets import DATASET
from tests.helpers.penalties import total
from tests.helpers.runs import layers_by_name
from tests.helpers.tiny import BLOCKS


def problem(ranks=(2, 3), inputs=12, outputs=8):
    """LoRAs of one layer, and for each the products of inputs of different shapes."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator)

    layers = [LayerWeights(random(rank, inputs), random(outputs, rank), 2.0 * rank) for rank in ranks]
    seen = [random(40, inputs) * torch.linspace(0.1, 2, inputs) for _ in (*ranks, None)]
    *covariances, neutral = [one.T @ one / len(one) for one in seen]
    return layers, covariances, neutral


@pytest.mark.parametrize("mu", [0.0, 0.5])
def test_the_closed_form_minimises_the_least_squares_and_is_a_lora_of_summed_rank(mu):
    layers, covariances, neutral = problem()
    lora = fused(layers, covariances, neutral, mu)
    assert lora.rank == 5 == lora.alpha
    assert torch.linalg.matrix_rank(lora.delta()) == 5
    update = lora.delta().double().requires_grad_()
    least = fusion_loss(update, layers, covariances, neutral, mu)
    (gradient,) = torch.autograd.grad(least, update)
    plain_sum = sum(layer.delta() for layer in layers).double()
    start = torch.autograd.grad(fusion_loss(plain_sum.requires_grad_(), layers, covariances, neutral, mu), plain_sum)[0]
    assert gradient.abs().max() < 1e-4 * start.abs().max()
    for _ in range(5):
        other = update.detach() + 0.01 * torch.randn(update.shape, dtype=torch.float64)
        assert fusion_loss(other, layers, covariances, neutral, mu) > least


def test_a_concept_alone_is_kept_and_mu_keeps_the_rest():
    layers, covariances, neutral = problem(ranks=(2,))
    alone, wanted = fused(layers, covariances, neutral, 0.0).delta(), layers[0].delta()
    assert (alone - wanted).norm() < 0.02 * wanted.norm()

    def on_others(mu):
        delta = fused(layers, covariances, neutral, mu).delta()
        return float(((delta @ neutral) * delta).sum())

    assert on_others(10.0) < on_others(1.0) < on_others(0.0)


def test_lbfgs_as_published_comes_to_the_same_minimum():
    layers, covariances, neutral = problem()
    closed = fused(layers, covariances, neutral, 0.3).delta()
    torch.testing.assert_close(fused_by_lbfgs(layers, covariances, neutral, 0.3, 200), closed, rtol=1e-2, atol=1e-2)


def test_two_trained_loras_are_fused_to_one_with_both_concepts_vectors(plan_of, tmp_path):
    names = ("dog", "cat")
    for name in names:
        dataset = DATASET_OF.replace("NAME", name)
        plan = plan_of(dataset, method="mix_of_show", output_name=name, max_train_steps=2, overwrite=True)
        Run(plan).train()
    settings, folder = plan.settings, plan.settings.output_dir
    loras = [folder / f"{name}.safetensors" for name in names]
    prompts = [["a sks dog"], ["a sks cat dog"]]
    for kind in ("closed", "lbfgs"):
        fuse(settings, loras, prompts, (32, 32), Fusion(kind=kind, steps=2))
        both = load_lora(folder / "cat.safetensors", BLOCKS)
        assert all(layer.rank == 8 for layer in both.values())
        Run(plan_of(DATASET_OF.replace("NAME", "cat"), method="mix_of_show", output_name="cat", overwrite=True)).train()
    with pytest.raises(ConfigError, match="2 LoRAs but 1 prompts"):
        fuse(settings, loras, prompts[:1], (32, 32), Fusion())
    (tmp_path / "class_only.txt").write_text("a {class} in a city\n")
    of_class = replace(settings.pure_learning, replay_prompts=str(tmp_path / "class_only.txt"))
    for name in names:
        (folder / f"{name}_concept.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"class_only.txt.*\{class\}"):
        fuse(replace(settings, pure_learning=of_class), loras, prompts, (32, 32), Fusion())


def test_a_concept_is_seen_in_scenes_of_the_lines_that_have_a_place_for_it():
    lines = ["", "a {class} in the snow", "a car", "a {class} in the snow", "the dog and a tree"]
    dog = Concept(name="dog", trigger="sks", class_word="dog")
    assert scenes(lines, dog) == ["a sks dog in the snow", "the sks dog and a tree"]
    ink = Concept(name="ink", trigger="zwx", class_word="style", kind="style", target="in [V] style")
    assert scenes(lines, ink) == ["a car, in zwx style", "the dog and a tree, in zwx style"]
    many = scenes([f"a {{class}} on hill {number}" for number in range(99)], dog)
    assert len(many) == fusing.SCENES and many[-1] == f"a sks dog on hill {fusing.SCENES - 1}"


def test_a_lora_is_fused_on_scenes_if_a_concept_file_names_its_trigger(plan_of, monkeypatch, tmp_path, capsys):
    run = Run(plan_of(max_train_steps=1, output_name="dog"))
    run.train()
    dog, plain = run.folder / "dog.safetensors", tmp_path / "plain.safetensors"
    shutil.copy(dog, plain)
    settings = replace(run.settings, pure_learning=replace(run.settings.pure_learning, replay_prompts=None))
    drawn, really = [], fusing.draw_latents
    monkeypatch.setattr(
        "library.convert.fusing.draw_latents",
        lambda parts, branch, prompts, *given, **how: (
            drawn.append((branch.default, *prompts)) or really(parts, branch, prompts, *given, **how)
        ),
    )

    def seen(name):
        return [prompt for adapter, prompt in drawn if adapter == name]

    fuse(settings, [dog, plain], [["a sks dog"], ["a sks dog"]], (32, 32), Fusion(steps=1))
    assert "plain.safetensors: no concept file names the trigger" in capsys.readouterr().err
    of_dog, of_plain, neutral = map(seen, ("concept_0", "concept_1", PRETRAINED_BRANCH.default))
    assert of_dog[0] == "a sks dog" and "a photo of a sks dog on a beach" in of_dog and len(of_dog) == 16
    assert of_plain == ["a sks dog"] and not any("sks" in text for text in neutral)
    assert "a photo of a dog" in neutral and "a crowd at a street market" in neutral
    drawn.clear()
    fuse(settings, [dog, plain], [["a sks dog", "sks"], ["sks"]], (32, 32), Fusion(steps=1))
    assert seen("concept_0") == ["a sks dog", "sks"], "who gives several prompts has chosen"


def test_prompts_for_fusion_may_be_a_text_file(tmp_path):
    file = tmp_path / "dog.txt"
    file.write_text("a sks dog\n\na sks dog in the snow\n")
    assert purecc_fuse.prompts_of(str(file)) == ["a sks dog", "a sks dog in the snow"]
    assert purecc_fuse.prompts_of("a sks dog") == ["a sks dog"]
    with pytest.raises(ConfigError, match=r"none\.txt doesn't exist"):
        purecc_fuse.prompts_of(str(tmp_path / "none.txt"))


DATASET_OF = DATASET.replace('name = "dog"', 'name = "NAME"')


# Weighed for a prompt


def test_the_concept_that_a_prompt_names_weighs_most_and_squares_sum_up_to_1():
    concepts = [torch.eye(6)[:1], torch.eye(6)[1:3], torch.eye(6)[5:]]
    prompt = torch.stack([torch.eye(6)[0] + 0.1 * torch.eye(6)[1], torch.eye(6)[4]])
    weights = aggregation_weights(prompt, concepts)
    assert weights.argmax() == 0 and weights[2] == 0 < weights[1] < weights[0]
    torch.testing.assert_close(weights.square().sum(), torch.tensor(1.0))
    torch.testing.assert_close(aggregation_weights(7 * prompt, concepts), weights)
    assert torch.equal(aggregation_weights(prompt, concepts[:1]), torch.ones(1))
    assert aggregation_weights(prompt, concepts[2:]).isfinite().all()


def test_aggregated_loras_are_their_weighed_sum():
    layers, _, _ = problem()
    found = aggregated(layers, [0.8, 0.6])
    torch.testing.assert_close(found.delta(), 0.8 * layers[0].delta() + 0.6 * layers[1].delta(), rtol=1e-4, atol=1e-4)
    assert found.rank == 5 == found.alpha


def test_each_block_is_weighed_on_its_own():
    layers, _, _ = problem()
    loras = [{f"transformer_blocks.{block}.attn.to_q": layer for block in range(2)} for layer in layers]
    loras[1]["transformer_blocks.1.attn.to_k"] = layers[1]
    found = weighed(loras, torch.tensor([[1.0, 0.0], [0.6, 0.8]]), {"transformer_blocks": 2})
    torch.testing.assert_close(found["transformer_blocks.0.attn.to_q"].delta(), layers[0].delta())
    expected = 0.6 * layers[0].delta() + 0.8 * layers[1].delta()
    torch.testing.assert_close(found["transformer_blocks.1.attn.to_q"].delta(), expected, rtol=1e-4, atol=1e-4)
    expected = 0.8 * layers[1].delta()
    torch.testing.assert_close(found["transformer_blocks.1.attn.to_k"].delta(), expected, rtol=1e-4, atol=1e-4)


def test_a_prompt_weighs_by_the_vectors_that_its_concept_has_learned(plan_of):
    two = [Concept(name=name, trigger=trigger, class_word="dog") for name, trigger in (("a", "sks"), ("b", "ohwx"))]
    opened = build_parts(plan_of().settings, two)
    prompts = ["a sks dog", "a ohwx dog", "sks ohwx"]
    opened.texts.prepare([*prompts, *target_texts(two)])
    parts = opened.attach()
    generator, width = torch.Generator().manual_seed(0), parts.model.transformer_config["caption_projection_dim"]

    def vectors_of(concept):  # one for all of its tokens, so that each equals their mean
        one = torch.randn(BLOCKS, 1, width, generator=generator)
        return one.expand(-1, parts.layouts[concept.name].vectors, -1)

    aggregation = Aggregation(parts, {one.name: vectors_of(one) for one in two}, (32, 32))
    first, second, both = map(aggregation.weights, prompts)
    assert (first[:, 0] > 2 * first[:, 1]).all() and (second[:, 1] > 2 * second[:, 0]).all()
    torch.testing.assert_close(both, torch.full((BLOCKS, 2), 0.5**0.5), rtol=1e-4, atol=1e-4)


def test_cifcs_loras_become_one_for_the_prompt_to_be_drawn(plan_of):
    for name, trigger in (("dog", "sks"), ("cat", "ohwx")):
        dataset = DATASET_OF.replace("NAME", name).replace("sks", trigger)
        plan = plan_of(dataset, method="cifc", output_name=name, max_train_steps=1, overwrite=True)
        Run(plan).train()
    folder = plan.settings.output_dir
    loras = [folder / "dog.safetensors", folder / "cat.safetensors"]
    settings = plan_of(method="cifc", output_name="both", overwrite=True).settings
    weights = aggregate(settings, loras, plan.config.concepts[0].target.replace("[V]", "sks"), (32, 32))
    assert set(weights) == {"sks", "ohwx"} and weights["sks"] >= weights["ohwx"] > 0
    both, dog = load_lora(folder / "both.safetensors", BLOCKS), load_lora(loras[0], BLOCKS)
    assert set(both) == set(dog) and all(layer.rank == 8 for layer in both.values())
    assert (folder / "both_concept.safetensors").exists()
    (folder / "cat_concept.safetensors").unlink()
    with pytest.raises(ConfigError, match="no concept file"):
        aggregate(settings, loras, "a sks dog", (32, 32))


# Concepts one by one


def test_cifc_learns_in_a_subspace_that_the_earlier_concept_does_not_read(plan_of, tmp_path):
    first = Run(plan_of(method="cifc", output_name="first", save_precision="float"))
    first.train()
    path = str(first.folder / "first_diffusers.safetensors")
    overlaps = []
    for weight in (0.0, 10.0):
        given = {"previous_loras": [path], "orthogonal_weight": weight, "output_dir": str(tmp_path / str(weight))}
        run = Run(plan_of(method="cifc", max_train_steps=12, **given))
        run.train()
        earlier = {name: [one.down] for name, one in load_lora(path, BLOCKS).items()}
        overlaps.append(float(total(Overlap(layers_by_name(run), earlier))))
    assert overlaps[1] < 0.6 * overlaps[0]
    with pytest.raises(ModelError, match="doesn't exist"):
        Run(plan_of(method="cifc", previous_loras=["nowhere.safetensors"], overwrite=True))


def test_with_one_concept_cifc_equals_mix_of_show_and_says_so(plan_of, tmp_path):
    notices = []
    read_settings(None, {"pretrained_model_name_or_path": "m", "method": "cifc"}, notices)
    assert any("equals mix_of_show" in notice for notice in notices)
    files = []
    for method in ("cifc", "mix_of_show"):
        run = Run(plan_of(method=method, output_dir=str(tmp_path / method)))
        run.train()
        files.append(load_file(run.folder / "tiny.safetensors") | load_file(run.folder / "tiny_concept.safetensors"))
    assert [name for name in files[0] if not torch.equal(files[0][name], files[1][name])] == []
