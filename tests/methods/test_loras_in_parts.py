"""Methods whose LoRA acts in parts while it learns, but whose file is a plain LoRA."""

import pytest
import torch

from library.adapters.files import load_lora
from library.config.files import read_settings
from library.dual_branch_scheduler import Branch
from library.errors import ConfigError
from library.models.interface import PromptBatch
from library.models.sd3.settings import KINDS
from library.parts.parts import SAVED_ADAPTER
from library.predictions import PRETRAINED, STUDENT
from library.report.log import read_log
from library.saving.outputs import shown_weights
from library.training.run import Run
from tests.helpers.runs import ready, student_file

pytestmark = pytest.mark.usefixtures("shared_cache")

NOISY, CLEAR = torch.tensor([1.0]), torch.tensor([0.0])


def moved(run: Run) -> Run:
    """The same with a LoRA that has learned something."""
    torch.manual_seed(3)
    for weight in run.parts.network.parameters("student"):
        weight.data += 0.3 * torch.randn_like(weight)
    return run


@torch.no_grad()
def velocities(run: Run, text: str, sigma: torch.Tensor) -> dict[str, torch.Tensor]:
    branches = {**run.student.branches, SAVED_ADAPTER: Branch({}, {}, default=SAVED_ADAPTER)}
    shown_weights(run.parts)
    x_t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    prompts = [PromptBatch.of([run.parts.texts[text]], [None])]
    return {
        name: run.parts.velocity(branches[name], x_t, sigma, prompts) for name in (STUDENT, PRETRAINED, SAVED_ADAPTER)
    }


def test_a_token_lora_leaves_prompts_without_the_trigger_exactly_as_they_were_and_its_file_does_not(plan_of):
    run = moved(ready(plan_of(method="token_lora")))
    assert {name.split("attn.")[1] for name in run.parts.network.layers} == set(KINDS["context_attn_dim"])
    plain, named = velocities(run, "a dog", CLEAR), velocities(run, "a sks dog", CLEAR)
    assert torch.equal(plain[STUDENT], plain[PRETRAINED])
    assert not torch.allclose(named[STUDENT], named[PRETRAINED], atol=1e-3)
    assert not torch.allclose(plain[SAVED_ADAPTER], plain[PRETRAINED], atol=1e-3), "a UI applies it to all tokens"


def test_a_t_lora_is_its_file_near_the_image_and_less_of_it_at_noise(plan_of):
    run = moved(ready(plan_of(method="t_lora")))
    near, far = velocities(run, "a sks dog", CLEAR), velocities(run, "a sks dog", NOISY)
    torch.testing.assert_close(near[STUDENT], near[SAVED_ADAPTER], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(near[STUDENT], near[PRETRAINED], atol=1e-3)
    assert not torch.allclose(far[STUDENT], far[SAVED_ADAPTER], atol=1e-3)


@pytest.mark.parametrize("method", ["t_lora", "token_lora"])
def test_recomputed_blocks_act_on_the_same_ranks_and_tokens(plan_of, method, tmp_path):
    given = {"method": method, "max_train_steps": 2}
    kept, recomputed = (
        Run(plan_of(**given, gradient_checkpointing=one, output_dir=str(tmp_path / str(one)))) for one in (False, True)
    )
    for run in (kept, recomputed):
        run.train()
    losses = [[row["concept"] for row in read_log(run.log.path)] for run in (kept, recomputed)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for one, other in zip(student_file(kept).values(), student_file(recomputed).values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("method", ["t_lora", "token_lora"])
def test_the_saved_file_is_the_plain_lora_and_the_check_of_it_finds_it_whole(plan_of, method, capsys):
    run = Run(plan_of(method=method, max_train_steps=2))
    run.train()
    said = "".join(capsys.readouterr())
    assert "loads in ComfyUI" in said and "WARNING" not in said
    read, weights = load_lora(run.folder / "tiny.safetensors", 3), run.parts.network.weights("student")
    for name, one in weights.items():
        torch.testing.assert_close(read[name].delta(), one.delta(), rtol=2e-2, atol=1e-4)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"method": "token_lora", "target_modules": ["add_k_proj", "to_k"]}, 'which "to_k" does not see'),
        ({"method": "t_lora", "network_weights": "a.safetensors"}, "Remove network_weights"),
        ({"method": "t_lora", "t_lora_min_share": 0}, "t_lora_min_share"),
    ],
)
def test_what_they_can_not_do_is_reported(given, said):
    with pytest.raises(ConfigError, match=said):
        read_settings(None, {"pretrained_model_name_or_path": "m", **given})


@pytest.mark.parametrize("method", ["t_lora", "token_lora"])
def test_the_user_hears_that_uis_apply_all_of_the_file(method):
    notices = []
    read_settings(None, {"pretrained_model_name_or_path": "m", "method": method}, notices)
    assert any("UIs apply" in one for one in notices)
