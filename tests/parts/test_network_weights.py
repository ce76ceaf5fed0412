"""A LoRA to start from, and saved vectors: which of them fit a run."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from library.adapters.files import save_lora
from library.config.files import read_settings
from library.errors import ConfigError, ModelError
from library.models.sd3.settings import ATTENTION
from library.parts.network_weights import with_dim
from library.parts.saved_vectors import embeddings_of
from tests.helpers.loras import layer

TO_Q, FEED = "transformer_blocks.0.attn.to_q", "transformer_blocks.1.ff.net.2"


@pytest.fixture
def start(tmp_path):
    """Settings that start from a LoRA of rank 4 on a projection and of rank 6 on a feed-forward layer."""
    weights = {TO_Q: layer(0, 32, 32, alpha=2.0), FEED: layer(1, 32, 128, rank=6, alpha=3.0)}
    (file,) = save_lora(tmp_path, "first", weights, "float", {}, ["diffusers"])

    def make(**given):
        return read_settings(None, {"pretrained_model_name_or_path": "m", "network_weights": str(file), **given})

    return make


def test_rank_alpha_and_layers_come_from_the_file_if_that_is_set(start):
    network = with_dim(start(dim_from_weights=True), ["transformer_blocks"]).network
    assert (network.network_dim, network.network_alpha) == (6, 3.0)
    assert network.target_modules == ["to_q", "ff.net.2"]
    chosen = [*ATTENTION, "ff.net.2"]
    kept = with_dim(start(dim_from_weights=True, target_modules=chosen), ["transformer_blocks"]).network
    assert kept.target_modules == chosen, "the user's own choice stays"


def test_a_file_of_a_higher_rank_is_refused_and_one_that_fits_changes_nothing(start):
    with pytest.raises(ConfigError, match="has rank 6, but network_dim is 5") as error:
        with_dim(start(network_dim=5), ["transformer_blocks"])
    assert "dim_from_weights" in error.value.remedy
    settings = start(network_dim=6)
    assert with_dim(settings, ["transformer_blocks"]) == settings
    without = replace(settings, network=replace(settings.network, network_weights=None))
    assert with_dim(without, ["transformer_blocks"]) is without


def test_a_method_that_trains_no_lora_starts_from_none(start):
    with pytest.raises(ConfigError, match="textual_inversion trains none"):
        with_dim(start(method="textual_inversion"), ["transformer_blocks"])


@pytest.mark.parametrize(("shape", "every_block"), [((3, 2, 8), True), ((1, 2, 8), False)])
def test_saved_vectors_become_frozen_embeddings_of_the_runs_concepts(shape, every_block):
    model = SimpleNamespace(depth=3, width=8, device=torch.device("cpu"))
    parts = SimpleNamespace(model=model, layouts={"dog": None})
    saved = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = embeddings_of(parts, {"dog": saved, "cat": saved}, "file")
    assert set(found) == {"dog"} and not any(one.requires_grad for one in found["dog"].parameters())
    assert torch.equal(found["dog"].vectors(), saved) and found["dog"].every_block is every_block
    for other in ((2, 2, 8), (3, 2, 9)):
        with pytest.raises(ModelError, match='file: the vectors of "dog" are for'):
            embeddings_of(parts, {"dog": torch.zeros(other)}, "file")
