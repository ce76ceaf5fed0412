"""What learns, as one list: the optimizer, the moving average, states and the count of memory all walk it.

So nothing can learn that is not averaged, saved, restored and counted as well.
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
        name: no other of the run has it.
        modules: what holds the weights, by name. Buffers do not learn, but weights mean nothing without them.
        rate: what the learning rate of its weights is called.
        rates: the same of weights that have another one, by the end of their names.
    """

    name: str
    modules: Mapping[str, nn.Module]
    rate: str
    rates: Mapping[str, str] = field(default_factory=dict)

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """What learns, by name, in the order of the modules."""
        named = ((f"{name}.{end}", one) for name, held in self.modules.items() for end, one in held.named_parameters())
        return dict(named)

    def rate_of(self, weight: str) -> str:
        """What the learning rate of a weight is called."""
        return self.rates.get(weight.rpartition(".")[2], self.rate)

    def learn(self) -> None:
        """From now on it learns, with its dropout."""
        for module in self.modules.values():
            module.requires_grad_(True).train()

    def freeze(self) -> None:
        """It does not learn."""
        for module in self.modules.values():
            module.requires_grad_(False)

    def state(self) -> dict[str, Tensor]:
        """Weights and buffers as they are, by name; not copied."""
        named = {f"{name}.{end}": one for name, held in self.modules.items() for end, one in held.named_buffers()}
        return {**self.weights, **named}

    @torch.no_grad()
    def load_state(self, saved: Mapping[str, Tensor]) -> None:
        """Puts a state into weights and buffers.

        Raises:
            ModelError: names or shapes are others.
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
    """All of their weights."""
    return [weight for one in learnables for weight in one.weights.values()]


def freeze_all_but(learning: Iterable[Learnable], held: Iterable[Learnable], network: AdapterNetwork) -> None:
    """Exactly these learn.

    Args:
        held: whatever could learn in the run.
        network: all of its adapters are frozen as well.
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
    """Puts saved states back.

    Raises:
        ModelError: one is missing, or does not fit.
    """
    for one in learnables:
        one.load_state(saved.get(one.name, {}))
