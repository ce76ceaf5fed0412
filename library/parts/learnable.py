"""Everything that learns, as one list for the optimizer, the moving average, states and the count of memory.

So everything that learns is also averaged, saved, restored and counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from library.adapters.network import AdapterNetwork
from library.errors import ModelError


@dataclass(frozen=True)
class Learnable:
    """Weights that learn together: a LoRA, a change of whole weights, a concept's vectors, or words.

    Args:
        name: unique in the run.
        modules: the modules with the weights, by name. Buffers don't learn, but weights mean nothing without them.
        rate: the name of its weights' learning rate.
        rates: the same for weights with another learning rate, by the endings of their names.
    """

    name: str
    modules: Mapping[str, nn.Module]
    rate: str
    rates: Mapping[str, str] = field(default_factory=dict)

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """The weights that learn, by name, in the order of the modules."""
        named = ((f"{name}.{end}", one) for name, held in self.modules.items() for end, one in held.named_parameters())
        return dict(named)

    def rate_of(self, weight: str) -> str:
        """The name of a weight's learning rate."""
        return self.rates.get(weight.rpartition(".")[2], self.rate)

    def learn(self) -> None:
        """Lets it learn from now on, with its dropout."""
        for module in self.modules.values():
            module.requires_grad_(True).train()

    def freeze(self) -> None:
        """Stops it from learning."""
        for module in self.modules.values():
            module.requires_grad_(False)

    def state(self) -> dict[str, Tensor]:
        """Current weights and buffers, by name; not copied."""
        named = {f"{name}.{end}": one for name, held in self.modules.items() for end, one in held.named_buffers()}
        return {**self.weights, **named}

    @torch.no_grad()
    def load_state(self, saved: Mapping[str, Tensor]) -> None:
        """Loads a state into weights and buffers.

        Raises:
            ModelError: names or shapes differ.
        """
        mine = self.state()
        unlike = sorted(set(mine) ^ set(saved)) or [name for name in mine if mine[name].shape != saved[name].shape]
        if unlike:
            raise ModelError(
                f"resume: the {self.name} of the state differs from that of this run: {unlike[0]}.",
                "Start from scratch with --overwrite.",
            )
        for name, tensor in mine.items():
            tensor.copy_(saved[name])


def parameters_of(learnables: Iterable[Learnable]) -> list[nn.Parameter]:
    """All weights of these."""
    return [weight for one in learnables for weight in one.weights.values()]


def freeze_all_but(learning: Iterable[Learnable], held: Iterable[Learnable], network: AdapterNetwork) -> None:
    """Lets exactly these learn.

    Args:
        held: everything that could learn in the run.
        network: all of its adapters are frozen, too.
    """
    network.train_only([])
    for one in held:
        one.freeze()
    for one in learning:
        one.learn()


def states_of(learnables: Iterable[Learnable]) -> dict[str, dict[str, Tensor]]:
    """The states of all of them, by name."""
    return {one.name: one.state() for one in learnables}


def restore(learnables: Iterable[Learnable], saved: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Restores saved states.

    Raises:
        ModelError: one is missing or doesn't fit.
    """
    for one in learnables:
        one.load_state(saved.get(one.name, {}))
