"""The definition of a method: a sum of terms over the same model, data, caches, step and files.

A method's file declares what settings and plan need to know about it. It imports PyTorch only inside its functions, so
that help and errors in settings don't wait for it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from library.config.family_settings import attention_layers, text_layers
from library.config.method_settings import PURECC
from library.config.settings import SECTIONS, OptimizerSettings, Settings
from library.methods.reads import OF_SOME, WITH_EMBEDDINGS, names_of

if TYPE_CHECKING:
    from torch import Tensor

    from library.adapters.linear import Form
    from library.adapters.network import AdapterNetwork
    from library.adapters.penalties import Layers, Penalty
    from library.objectives import Objective

OFF: Mapping[str, Any] = {
    "target_modules": attention_layers(),
    "eta": 0.0,
    "anchor_weight": 0.0,
    "extractor_anchor_weight": 0.0,
    "replay_weight": 0.0,
    "concept_embeddings": "none",
    "student_embeddings": "none",
    "surroundings_weight": 0.0,
    "word_weight": 0.0,
    "context_vectors": 0,
}
"""PureCC and our additions turned off, and the LoRA on the layers that most trainers choose: what every other method
starts from."""


@dataclass(frozen=True)
class Penalised:
    """What a penalty may read.

    Args:
        layers: the adapters that learn.
        blocks: how many blocks the transformer has.
        fisher: how much each number of each layer's weight matters, (out, in); empty if no penalty reads it.
    """

    layers: Layers
    blocks: int
    fisher: Mapping[str, Tensor]


@dataclass(frozen=True)
class PenaltyTerm:
    """A loss of the weights themselves that a method adds to its objective.

    Args:
        name: in the log.
        weight: 0 leaves it out.
        of: builds it for a student.
        reads_fisher: whether it reads the Fisher information, for which the pretrained model draws pictures.
    """

    name: str
    weight: float
    of: Callable[[Penalised], Penalty]
    reads_fisher: bool = False


@dataclass(frozen=True, eq=False, kw_only=True)
class Method:
    """One method.

    Args:
        name: in the setting `method`, and of the method's file and preset.
        trains: what it trains and by what, one sentence for the user.
        reads: the settings it uses, apart from those that every method uses; its own are added.
        own: a dataclass of its own settings; `Settings.of_method` returns them.
        starts_from, defaults: values of settings that the user leaves unset; `defaults` takes precedence.
        student: the student's objective, from the settings and whether there are regularisation pictures.
        extractor: the objective of stage 1; None: the method has no extractor.
        student_weights: what the student learns: a LoRA, whole weights, or the words of the concept.
        form: how the student's LoRA differs from a plain one while it learns; None: it doesn't.
        penalties: losses of the weights themselves.
        fuses_steps: whether weights are updated inside the backward pass.
        anchors_styles: whether `anchor_weight` also applies to pictures of a style, not only of a subject.
        ties_others: whether pictures without the concept are tied to the pretrained model without an anchor.
        check: raises a `ConfigError` for settings that it can't work with.
        check_fit: raises a `ModelError` for files that don't fit the network and the number of blocks.
        remarks: sentences about what the settings lead to.
    """

    name: str
    trains: str
    reads: frozenset[str]
    own: type | None = None
    starts_from: Mapping[str, Any] = dataclasses.field(default_factory=lambda: OFF)
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    student: Callable[[Settings, bool], Objective]
    extractor: Callable[[Settings], Objective] | None = None
    student_weights: Literal["lora", "full", "words"] = "lora"
    form: Callable[[Settings], Form | None] = lambda settings: None
    penalties: Callable[[Settings], Sequence[PenaltyTerm]] = lambda settings: ()
    fuses_steps: Callable[[Settings], bool] = lambda settings: False
    anchors_styles: bool = True
    ties_others: bool = False
    check: Callable[[Settings], None] = lambda settings: None
    check_fit: Callable[[Settings, AdapterNetwork, int], None] = lambda settings, network, blocks: None
    remarks: Callable[[Settings], Sequence[str]] = lambda settings: ()

    @property
    def own_names(self) -> frozenset[str]:
        """The names of its own settings."""
        return frozenset() if self.own is None else names_of(self.own)

    @property
    def all_reads(self) -> frozenset[str]:
        """The settings it uses, apart from those that every method uses."""
        return self.reads | self.own_names

    @property
    def usual_layers(self) -> list[str]:
        """The layers it trains where the user names none, as `target_modules` names them."""
        return {"target_modules": text_layers(), **self.starts_from, **self.defaults}["target_modules"]

    @property
    def usual_rate(self) -> float:
        """Its usual learning rate, as a multiple of a LoRA's."""
        of_lora = OptimizerSettings.learning_rate
        return self.defaults.get("learning_rate", of_lora) / of_lora

    @property
    def may_have_vectors(self) -> bool:
        """Whether `with_embeddings` can give it vectors in the blocks."""
        return WITH_EMBEDDINGS in self.reads


METHODS: dict[str, Method] = {}
"""Every method by its name; `library.methods` has them all."""


def register(method: Method) -> Method:
    """Registers a method for settings, help, checks and docs.

    Raises:
        ValueError: its name or one of its settings is taken, or it reads something other than a method's setting.
    """
    if method.name in METHODS:
        raise ValueError(f"the method {method.name} is already registered")
    taken = method.own_names & frozenset().union(*map(names_of, SECTIONS.values()), own_of_all())
    if taken:
        raise ValueError(f"{method.name}: the setting {min(taken)} already exists")
    unknown = method.all_reads - OF_SOME - own_of_all() - method.own_names - {WITH_EMBEDDINGS}
    if unknown:
        raise ValueError(
            f"{method.name} reads {min(unknown)}, which is not a method's own setting, or one that all methods read"
        )
    METHODS[method.name] = method
    return method


def own_of_all() -> frozenset[str]:
    """The methods' own settings."""
    return frozenset().union(*(one.own_names for one in METHODS.values()))


def in_order() -> list[Method]:
    """All methods in listing order: PureCC, then its rivals by name."""
    return sorted(METHODS.values(), key=lambda one: (one.name != PURECC, one.name))


def method_of(settings: Settings) -> Method:
    """The method that trains."""
    return METHODS[settings.method.method]
