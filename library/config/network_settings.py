"""[network]: which layers get a LoRA, its rank and its regularisation; kohya's names and network_args."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from library.config.family_settings import text_layers
from library.config.fields import setting
from library.errors import ConfigError

ALL = "all"


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """[network]: the LoRA adapters, one shape for extractor and student."""

    network_dim: int = setting(16, "Rank of the LoRA. Higher ranks can learn more, and make larger files.", at_least=1)
    network_alpha: float = setting(
        16.0,
        "Scale of the LoRA: its effect is multiplied by network_alpha / network_dim. If you set only network_dim, "
        "network_alpha follows it.",
        above=0,
    )
    network_dropout: float = setting(
        0.0,
        "Probability of dropping each value between the LoRA's two matrices during training.",
        at_least=0,
        at_most=0.95,
    )
    rank_dropout: float = setting(
        0.0,
        "Probability of dropping each LoRA rank during training, drawn separately for each layer.",
        at_least=0,
        at_most=0.95,
    )
    module_dropout: float = setting(
        0.0, "Probability of skipping a layer's LoRA during training.", at_least=0, at_most=0.95
    )
    target_modules: list[str] = setting(
        text_layers,
        "Linear layers in the transformer blocks that get a LoRA, given by the end of their diffusers name. The "
        "default is the text stream's, attention and feed-forward (ours). Methods besides purecc train all attention "
        "layers if it is unset.",
    )
    train_block_indices: str = setting(ALL, 'Blocks that get a LoRA, such as "0,1,5-8", or "all".')
    scale_weight_norms: float = setting(
        0.0,
        "Largest Frobenius norm of a layer's weight change. After each step, larger ones are scaled down to "
        "it. 0: no limit.",
        at_least=0,
    )
    loraplus_lr_ratio: float | None = setting(
        None,
        "LoRA+: learning rate of the LoRA's output matrices, as a multiple of learning_rate. Unset: 1.",
        above=0,
    )
    full_bf16: bool = setting(
        False,
        "Keep the LoRA's weights, gradients and optimizer in bf16 instead of float32: slightly less memory, "
        "but updates smaller than 1/256 of a weight are lost. dreambooth: the weight changes are in bf16, "
        "rounded stochastically so that none are lost.",
    )
    network_verbose: bool = setting(
        False, "Print each layer that gets a LoRA, with its rank and alpha.", shapes_training=False
    )
    base_weights: list[str] = setting(
        [],
        "LoRA files in any layout that are merged into the base model first. Use your LoRA together with them.",
        holds="path",
    )
    base_weights_multiplier: list[float] = setting([], "Strength of each file in base_weights. Unset: 1.")
    network_weights: str | None = setting(
        None,
        "LoRA file that the student starts from, in any layout and from any trainer. Unset: start from scratch.",
        holds="path",
    )
    dim_from_weights: bool = setting(
        False,
        "Take network_dim, network_alpha and, if target_modules is unset, the trained layers from network_weights.",
    )

    def __post_init__(self) -> None:
        if self.dim_from_weights and self.network_weights is None:
            raise ConfigError(
                "network: dim_from_weights needs network_weights, which is not set.",
                "Set network_weights, or remove dim_from_weights.",
            )
        if len(self.base_weights_multiplier) > len(self.base_weights):
            raise ConfigError(
                f"network: base_weights_multiplier has {len(self.base_weights_multiplier)} numbers for "
                f"{len(self.base_weights)} files in base_weights.",
                "Write one number per file, or remove it.",
            )
        dims = [name for name in self.kinds if getattr(self, name) is not None]
        if dims and self.target_modules != text_layers():
            raise ConfigError(
                f"network: target_modules and {dims[0]} both choose the trained layers.",
                "Remove one of them.",
            )
        if dims and self.dim_from_weights:
            raise ConfigError(
                f"network: dim_from_weights and {dims[0]} both set the LoRA's rank.", "Remove one of them."
            )
        if dims and not self.ranks:
            raise ConfigError("network: all six dims are 0, so no layer gets a LoRA.", "Set one of them above 0.")
        self.chosen_blocks(None)

    @property
    def kinds(self) -> Mapping[str, Sequence[str]]:
        """A family's settings for the ranks of its kinds of layers, each with the endings of these layers' names."""
        return {}

    @property
    def ranks(self) -> dict[str, int]:
        """The rank of each layer that gets a LoRA, by the ending of its diffusers name."""
        dims = {name: getattr(self, name) for name in self.kinds}
        if all(dim is None for dim in dims.values()):
            return dict.fromkeys(self.target_modules, self.network_dim)
        ranks = {name: self.network_dim if dim is None else dim for name, dim in dims.items()}
        return {ending: rank for name, rank in ranks.items() if rank for ending in self.kinds[name]}

    def chosen_blocks(self, count: int | None) -> frozenset[int] | None:
        """The numbers of the blocks that get a LoRA; None: all.

        Args:
            count: how many there are; None: not known yet.

        Raises:
            ConfigError: train_block_indices is not such a list, is empty, or names a missing block.
        """
        if self.train_block_indices == ALL:
            return None
        chosen: set[int] = set()
        try:
            for part in self.train_block_indices.split(","):
                first, dash, last = part.partition("-")
                chosen |= set(range(int(first), int(last if dash else first) + 1))
        except ValueError:
            chosen = set()
        if not chosen:
            raise ConfigError(
                f'network: train_block_indices is "{self.train_block_indices}", which contains no block.',
                'Write numbers and ranges, such as "0,1,5-8", or "all".',
            )
        if count is not None and max(chosen) >= count:
            raise ConfigError(
                f"network: train_block_indices names block {max(chosen)}; this model has blocks 0 to {count - 1}.",
                "Name others.",
            )
        return frozenset(chosen)
