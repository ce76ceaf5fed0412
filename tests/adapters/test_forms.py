"""LoRAs that are more than plain ones: orthogonal directions, ranks by noise, only the trigger's tokens."""

import pytest
import torch
from torch import nn

from library.adapters.linear import Facts, LowRank
from library.adapters.orthogonal import OrthogonalLowRank
from library.errors import ConfigError
from library.methods.t_lora import RanksByNoise
from library.methods.token_lora import NamedTokens


def orthogonal(seed: int = 0, gate=None, moved: bool = True) -> OrthogonalLowRank:
    generator = torch.Generator().manual_seed(seed)
    one = OrthogonalLowRank(nn.Linear(10, 8), 4, 6.0, generator=generator, gate=gate)
    if moved:
        for weight in one.parameters():
            weight.data += 0.1 * torch.randn(weight.shape, generator=generator)
    return one


def test_directions_start_orthonormal_with_falling_sizes_and_change_nothing():
    fresh, other = orthogonal(moved=False), orthogonal(seed=1, moved=False)
    eye = torch.eye(4)
    torch.testing.assert_close(fresh.down @ fresh.down.T, eye, atol=1e-6, rtol=0)
    torch.testing.assert_close(fresh.up.T @ fresh.up, eye, atol=1e-6, rtol=0)
    assert (fresh.sizes.diff() < 0).all() and (fresh.sizes > 0).all()
    assert not fresh.change().any() and not fresh(torch.randn(3, 10)).any()
    assert not torch.equal(fresh.down, other.down)
    with torch.no_grad():
        fresh.sizes.add_(1.0)
    assert not torch.equal(fresh.sizes, other.sizes), "layers of one size begin alike and learn apart"


def test_its_change_is_what_it_adds_and_what_its_file_adds():
    one, x = orthogonal(), torch.randn(3, 5, 10)
    torch.testing.assert_close(one(x), x @ one.change().T)
    down, up, alpha = one.as_plain()
    torch.testing.assert_close(alpha / len(down) * up @ down, one.change())
    torch.testing.assert_close(one.norm(), one.change().norm())
    assert down.shape == (8, 10)


def test_a_gradient_of_the_change_reaches_directions_and_sizes_as_with_autograd():
    one, gradient = orthogonal(), torch.randn(8, 10)
    expected = torch.autograd.grad((one.change() * gradient).sum(), [*one.parameters()])
    one.add_gradient_of(gradient)
    for weight, meant in zip(one.parameters(), expected, strict=True):
        torch.testing.assert_close(weight.grad, meant, rtol=1e-4, atol=1e-6)


def test_more_directions_than_a_layer_has_are_refused():
    with pytest.raises(ConfigError, match="Set network_dim to 8 or less"):
        OrthogonalLowRank(nn.Linear(10, 8), 9, 9.0)


@pytest.mark.parametrize(
    ("share", "power", "expected"),
    [(0.5, 1.0, [8, 7, 6, 4]), (0.01, 1.0, [8, 6, 4, 1]), (0.5, 2.0, [8, 6, 5, 4]), (1.0, 1.0, [8, 8, 8, 8])],
)
def test_fewer_ranks_act_where_there_is_more_noise(share, power, expected):
    sigma = torch.tensor([0.0, 0.25, 0.5, 1.0])
    assert RanksByNoise(share, power).active(sigma, 8).tolist() == expected


def test_each_row_has_the_ranks_of_its_own_noise():
    one, x = orthogonal(gate=RanksByNoise(0.5, 1.0)), torch.randn(2, 5, 10)
    both = one(x, facts=Facts(torch.tensor([0.0, 1.0]), ((), ())))
    torch.testing.assert_close(both[0], x[0] @ one.change().T)
    sizes = [one.sizes * torch.tensor([1.0, 1.0, 0, 0]), one.first_sizes * torch.tensor([1.0, 1.0, 0, 0])]
    half = one.scale * (one.up * sizes[0] @ one.down - one.first_up * sizes[1] @ one.first_down)
    torch.testing.assert_close(both[1], x[1] @ half.T)


def test_tokens_other_than_the_triggers_get_nothing():
    one = LowRank(nn.Linear(6, 5), 3, 3.0, gate=NamedTokens())
    nn.init.normal_(one.up)
    x = torch.randn(3, 4, 6)
    out = one(x, facts=Facts(torch.zeros(3), ((1, 3), (), (0,))))
    acts = torch.tensor([[0, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0]]).bool()
    torch.testing.assert_close(out[acts], (x @ one.change().T)[acts])
    assert not out[~acts].any()


@pytest.mark.parametrize("gate", [RanksByNoise(0.5, 1.0), NamedTokens()])
def test_all_layers_of_a_pass_share_a_mask(gate):
    facts, low = Facts(torch.tensor([0.0, 1.0]), ((1,), (0, 2))), torch.zeros(2, 3, 4)
    assert gate(low, facts) is gate(low + 1, facts)
    second = facts.of(slice(1, 2))
    assert second is facts.of(slice(1, 2)) and torch.equal(gate(low[1:], second), gate(low, facts)[1:])
    assert gate(low.double(), facts).dtype == torch.float64
    other = Facts(torch.tensor([1.0, 0.0]), ((2,), (1,)))
    assert not torch.equal(gate(low, other), gate(low, facts))


def test_a_gate_needs_to_know_the_rows():
    with pytest.raises(ValueError, match="needs to know the rows"):
        orthogonal(gate=RanksByNoise(0.5, 1.0))(torch.randn(2, 10))
