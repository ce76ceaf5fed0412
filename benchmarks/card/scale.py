"""At which size questions are asked: Stable Diffusion 3.5 Medium with random weights, or the small bundled model."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks.vram import SMALL
from library.config.dataset_file import read_concepts_and_pictures
from library.config.files import TomlFile, read_settings

if TYPE_CHECKING:
    from library.preflight.plan import Plan
    from library.training.run import Run

ROOT = Path(__file__).parent.parent.parent
PIECE = 2**20
"""Random numbers that are drawn; weights repeat them."""
QUICK: dict[str, Any] = {
    "extractor_train_steps": 2,
    "max_train_steps": 3,
    "replay_images": 2,
    "replay_sample_steps": 1,
    "context_train_steps": 1,
    "word_train_steps": 1,
    "sample_steps": 1,
    "sample_seeds": 1,
    "sample_strengths": [],
    "audit": False,
    "log_with": "none",
    "overwrite": True,
}
"""Settings that make every phase short."""
SHORTER = {**QUICK, "extractor_train_steps": 1, "max_train_steps": 2, "word_train_steps": 0, "context_vectors": 0}
"""The same for the short form."""


class RandomWeights:
    """Stands in for `PartWeights`: the right shapes, about the right size, and no file of 16 GB.

    Args:
        part: of the model.
        config: its config.json.
        numbers: whether there have to be any; else what is read is whatever the memory holds.
    """

    def __init__(self, part: str, config: dict[str, Any], numbers: bool = True) -> None:
        from library.models.loading.weights import needed_by
        from library.models.modules import blank

        self.where, self.part, self._numbers = f"random {part}", part, numbers
        self._shapes = {name: tuple(tensor.shape) for name, tensor in needed_by(blank(part, config)).items()}

    @cached_property
    def _piece(self) -> Tensor:
        return torch.randn(PIECE, generator=torch.Generator().manual_seed(0))

    def _made(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        if not self._numbers:
            return torch.empty(shape, dtype=dtype)
        if len(shape) < 2:
            return torch.ones(shape, dtype=dtype)
        scale = math.sqrt(math.prod(shape[1:]))
        count = math.prod(shape)
        return (self._piece / scale).to(dtype).repeat(-(-count // PIECE))[:count].view(shape)

    def read(self, name: str, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
        """See `PartWeights.read`."""
        return self._made(self._shapes[name], dtype).to(device)

    def read_rows(self, name: str, rows: Tensor, dtype: torch.dtype) -> Tensor:
        """See `PartWeights.read_rows`."""
        return self._made((len(rows), *self._shapes[name][1:]), dtype)

    def tensors(
        self, names: Iterable[str], dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> Iterator[tuple[str, Tensor]]:
        """See `PartWeights.tensors`."""
        for name in names:
            yield name, self.read(name, dtype, device)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """See `PartWeights.shape`."""
        return self._shapes.get(name)

    def fingerprint(self) -> str:
        """See `PartWeights.fingerprint`."""
        return f"random {self.part}"


@contextlib.contextmanager
def random_weights(numbers: bool = True) -> Iterator[None]:
    """Inside, models that are folders of configurations have random weights; without numbers, just weights."""
    from library.models.loading.model_files import FolderFiles

    made: dict[str, RandomWeights] = {}

    def weights(files: FolderFiles, part: str) -> RandomWeights:
        if part not in made:
            made[part] = RandomWeights(part, files.config(part), numbers)
        return made[part]

    with mock.patch.object(FolderFiles, "weights", weights):
        yield


@dataclass(frozen=True)
class Scale:
    """Where and how large.

    Args:
        folder: for models and runs.
        device: whose answers are wanted.
        short: on the small bundled model, with few rounds.
    """

    folder: Path
    device: torch.device
    short: bool

    @property
    def rounds(self) -> int:
        """How often steps are timed."""
        return 1 if self.short else 5

    @property
    def resolution(self) -> int:
        """Of the pictures that steps are timed with."""
        return 64 if self.short else 512

    def plan(self, preset: str, name: str, **settings: Any) -> Plan:
        """The plan of a preset, its phases short.

        Args:
            name: folder of its files.
        """
        given = {"device": str(self.device), "output_dir": str(self.folder / name), **settings}
        if self.short:
            return self.pocket_plan(preset, **given)
        from benchmarks.counts import full_size_plan

        return full_size_plan(self.folder, str(ROOT / "presets" / f"{preset}.toml"), **{**QUICK, **given})

    def pocket_plan(self, preset: str, **settings: Any) -> Plan:
        """The plan of a preset on the small bundled model."""
        from library.preflight.plan import make_plan

        small = {**SMALL, "t5xxl_max_token_length": 16, "resolution": 64, "train_batch_size": 1}
        small["pretrained_model_name_or_path"] = str(ROOT / "pocket" / "model")
        small["dataset_config"] = str(ROOT / "dataset_configs" / "creature.toml")
        small["cache_dir"] = str(self.folder / f"cache, {settings['device']}")
        file = TomlFile(ROOT / "presets" / f"{preset}.toml")
        read = read_settings(file, {**(SHORTER if self.short else QUICK), **small, **settings})
        return make_plan(read, read_concepts_and_pictures(file, read))

    def weights(self) -> contextlib.AbstractContextManager[None]:
        """Inside, the model has weights: random ones, where it is configurations alone."""
        return contextlib.nullcontext() if self.short else random_weights()


def prepared(plan: Plan) -> Run:
    """A run that is ready for its student's stage, which nobody watches."""
    from library.training.run import Run

    run = Run(plan)
    run.prepare()
    run.build_extractor()
    run.build_student()
    return run
