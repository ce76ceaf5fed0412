"""LoRAs merged into the model before training: every branch includes them, and caches and states account for them."""

import pytest
import torch

from library.adapters.files import save_lora, write_lora
from library.adapters.network import LayerWeights
from library.dual_branch_scheduler import PRETRAINED_BRANCH
from library.errors import ConfigError, ModelError
from library.models.interface import PromptBatch
from library.training.resuming import shaping
from library.training.run import Run
from tests.helpers.runs import PLAIN_LORA, ready, student_file

LAYERS = ("transformer_blocks.0.attn.to_q", "transformer_blocks.1.ff.net.2", "transformer_blocks.2.attn.add_v_proj")


@pytest.fixture
def base(tmp_path):
    """A LoRA file, and what it adds to each layer."""

    def make(seed: int, name: str = "base", scale: float = 0.1):
        generator = torch.Generator().manual_seed(seed)
        layers = {}
        for layer in LAYERS:
            inner = 128 if layer.endswith("ff.net.2") else 32
            down = torch.randn(2, inner, generator=generator)
            layers[layer] = LayerWeights(down, scale * torch.randn(32, 2, generator=generator), 1.0)
        file = tmp_path / f"{name}.safetensors"
        write_lora(file, layers, "kohya", torch.float32, {})
        return str(file), {layer: one.delta() for layer, one in layers.items()}

    return make


def weight_of(model, layer: str) -> torch.Tensor:
    return model.transformer.get_submodule(layer).weight.detach()


def test_the_model_is_the_pretrained_one_plus_every_file_by_its_multiplier(plan_of, base):
    (one, first), (two, second) = base(1, "one"), base(2, "two")
    plain = plan_of().parts.model
    changed = plan_of(base_weights=[one, two], base_weights_multiplier=[0.5]).parts.model
    streamed = dict(changed.pretrained_weights())
    for layer in LAYERS:
        expected = weight_of(plain, layer) + 0.5 * first[layer] + second[layer]
        torch.testing.assert_close(weight_of(changed, layer), expected)
        torch.testing.assert_close(streamed[f"{layer}.weight"], expected)
    others = {name for name, tensor in plain.transformer.state_dict().items()
              if not torch.equal(tensor, changed.transformer.state_dict()[name])}  # fmt: skip
    assert others == {f"{layer}.weight" for layer in LAYERS}


def test_every_branch_stands_on_it(plan_of, base):
    """The ties keep the student at the changed model, so a fresh student has no loss there."""
    file, _ = base(1)
    runs = [ready(plan_of(**PLAIN_LORA, overwrite=True, base_weights=given)) for given in ([], [file])]
    velocities = []
    for run in runs:
        x_t, sigma = torch.ones(1, 4, 8, 8), torch.tensor([0.5])
        prompts = [PromptBatch.of([run.parts.texts["a dog city"]], ["dog"])]
        branches = run.student.branches
        own = {name: run.parts.velocity(branches[name], x_t, sigma, prompts) for name in ("student", "pretrained")}
        assert torch.equal(own["student"], own["pretrained"])
        assert torch.equal(own["student"], run.parts.velocity(PRETRAINED_BRANCH, x_t, sigma, prompts))
        velocities.append(own["pretrained"])
    assert not torch.allclose(*velocities)


def test_it_is_known_by_its_content_and_not_by_its_name(plan_of, base):
    file, _ = base(1)
    same, _ = base(1, "renamed")
    plans = [plan_of(base_weights=[one]) for one in (file, same)]
    prints = [plan.parts.model.fingerprint() for plan in plans]
    other, _ = base(2)
    prints.append(plan_of(base_weights=[other]).parts.model.fingerprint())
    prints.append(plan_of(base_weights=[same], base_weights_multiplier=[0.5]).parts.model.fingerprint())
    prints.append(plan_of().parts.model.fingerprint())
    assert prints[0] == prints[1] and len(set(prints)) == 4
    assert other == file, "the file was written anew, and a run with the old one does not go on"
    known = "what is in base_weights"
    assert shaping(plan_of(base_weights=[file]))[known] != shaping(plans[1])[known]
    assert known not in shaping(plan_of())


def test_a_run_with_it_ends_and_its_files_are_right(plan_of, base):
    """The student's file holds only the learned LoRA; its reload check uses the same base."""
    file, _ = base(1)
    run = Run(plan_of(base_weights=[file], base_quantization="int8"))
    run.train()
    assert not any("ff_net" in name for name in student_file(run))
    again = (run.folder / "config.toml").read_text()
    assert file in again


def test_what_can_not_be_put_in_is_reported_before_anything_is_loaded(plan_of, base, tmp_path):
    with pytest.raises(ModelError, match="doesn't exist"):
        plan_of(base_weights=[str(tmp_path / "none.safetensors")])
    with pytest.raises(ConfigError, match="2 numbers for 1 files"):
        plan_of(base_weights=[base(1)[0]], base_weights_multiplier=[1, 2])
    wrong = {LAYERS[0]: LayerWeights(torch.ones(2, 16), torch.ones(32, 2), 2.0)}
    save_lora(tmp_path, "wrong", wrong, "float", {}, ["diffusers"])
    with pytest.raises(ModelError, match=r"as \(32, 16\), which is \(32, 32\) in this model"):
        plan_of(base_weights=[str(next(tmp_path.glob("wrong*.safetensors")))])
