"""The node and its LoRA files: it refuses damaged ones, and leaves none open."""

import pytest
import torch
from safetensors.torch import save_file

from tests.helpers.comfy_stand_ins import BASE
from tests.helpers.harmed_loras import EVERYWHERE, FOR_ONE_MODEL
from tests.helpers.mapped_files import is_mapped


def for_the_node(comfy, harm=None) -> str:
    """A LoRA for the stand-in's one layer, in its folder."""
    path = comfy.folder / "loras" / "dog.safetensors"
    halves = {"lora_up.weight": torch.ones(32, 4), "lora_down.weight": torch.ones(4, 128), "alpha": torch.tensor(4.0)}
    save_file({f"{BASE}.{end}": one for end, one in halves.items()}, path)
    if harm:
        harm(path)
    return path.name


@pytest.mark.parametrize("harm", [*EVERYWHERE, *FOR_ONE_MODEL])
def test_the_node_refuses_it(comfy, harm):
    name = for_the_node(comfy, {**EVERYWHERE, **FOR_ONE_MODEL}[harm])
    with pytest.raises(ValueError, match=r"^dog\.safetensors") as refused:
        comfy.load(lora=name)
    assert len(str(refused.value)) < 500 and "\n" not in str(refused.value)


def test_the_node_loads_it_unharmed(comfy):
    model, _, _ = comfy.load(lora=for_the_node(comfy))
    assert [names for names, _ in model.loras] == [
        [f"{BASE}.{e}" for e in ("alpha", "lora_down.weight", "lora_up.weight")]
    ]


def test_the_node_leaves_its_files_free(comfy):
    kept = comfy.load(lora="dog.safetensors")
    files = [comfy.folder / "loras" / name for name in ("dog.safetensors", "dog_concept.safetensors")]
    assert kept and all(file.is_file() and not is_mapped(file) for file in files)
