"""The processes of a run: `accelerate launch` starts several, each with its share of every batch.

What learns is a few megabytes, and a step makes several passes, so nothing is wrapped. Each process computes the
gradient of its own pictures, and they add up their gradients before the optimizer. The result is the step that one
process would make with the whole batch. Each process has the whole frozen base.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import nn

from library.config.settings import Settings
from library.errors import ConfigError, Interrupted, TrainingError
from library.models.opening import pick_device

AT_ONCE = 2**24
"""How many values of gradients are exchanged at once: groups small ones, and avoids a copy of everything."""
BY_ERROR, BY_USER = 1.0, 2.0
"""What ended the main process, as sent to the others."""
PATIENCE = timedelta(hours=24)
"""How long processes wait for each other: the longest that the main one may spend on caches and sheets."""
NOT_USED = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "parallelism",
}
"""What accelerate's configuration may ask for, by the variable that it sets."""


class MainStopped(TrainingError):
    """The main process could not continue, so this one can't."""


class ProcessLost(TrainingError):
    """Another process is gone, so this one can't continue."""


class Processes:
    """Processes that make each step together; by default there is one.

    Args:
        count: how many there are.
        number: of this process; 0 is the main one, the only one that writes and prints.
        device: where they exchange values.
    """

    def __init__(self, count: int = 1, number: int = 0, device: torch.device | None = None) -> None:
        self.count = count
        self.number = number
        self.device = device or torch.device("cpu")

    @property
    def main(self) -> bool:
        """Whether this is the one that writes files."""
        return self.number == 0

    def share(self, rows: int) -> slice:
        """This process's rows of a batch; if they don't divide evenly, the first processes have one more."""
        each, over = divmod(rows, self.count)
        begin = self.number * each + min(self.number, over)
        return slice(begin, begin + each + (self.number < over))

    @contextlib.contextmanager
    def main_first(self) -> Iterator[None]:
        """The others enter when the main process has left, and find its results in the cache.

        Raises:
            MainStopped: in the others, if an error ended it.
            KeyboardInterrupt: in the others, if the user ended it.
        """
        if self.main:
            with self._others_told():
                yield
            self.any(False)
        else:
            self._follow()
            yield

    @contextlib.contextmanager
    def main_holds(self, what: contextlib.AbstractContextManager[object]) -> Iterator[None]:
        """The main process holds a lock or the like while all are inside; if it can't, no process enters.

        Raises:
            MainStopped: in the others, if it can't.
        """
        if self.main:
            with contextlib.ExitStack() as held:
                with self._others_told():
                    held.enter_context(what)
                self.any(False)
                yield
        else:
            self._follow()
            yield

    @contextlib.contextmanager
    def _others_told(self) -> Iterator[None]:
        """If an error or the user ends the block in the main process, the others are notified instead of waiting."""
        try:
            yield
        except BaseException as error:
            by_user = isinstance(error, (KeyboardInterrupt, Interrupted))
            with contextlib.suppress(ProcessLost):  # they are already gone
                self._reduced(BY_USER if by_user else BY_ERROR, "MAX")
            raise

    def _follow(self) -> None:
        """Continues when the main process does, and ends in the same way."""
        told = self._reduced(0.0, "MAX")
        if told == BY_USER:
            raise KeyboardInterrupt
        if told:
            raise MainStopped("The main process has stopped; see its error.")

    def any(self, yes: bool) -> bool:
        """Whether any process says yes; the same answer in all."""
        return self._reduced(float(yes), "MAX") > 0

    def least(self, value: int) -> int:
        """The smallest of all processes' values."""
        return int(self._reduced(float(value), "MIN"))

    def add_up_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Each parameter's gradient becomes the sum over the processes; it stays None if no process has one."""
        if self.count == 1:
            return
        has = torch.tensor([float(one.grad is not None) for one in parameters], device=self.device)
        self._all_reduce(has)
        learned = [one for one, some in zip(parameters, has.tolist(), strict=True) if some]
        while learned:
            group = [learned.pop(0)]
            while learned and sum(one.numel() for one in group) + learned[0].numel() <= AT_ONCE:
                group.append(learned.pop(0))
            gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in group]
            joined = torch.cat([gradient.flatten() for gradient in gradients])
            self._all_reduce(joined)
            for one, total in zip(group, joined.split([one.numel() for one in group]), strict=True):
                one.grad = total.view_as(one).to(one.dtype)

    def gathered(self, seen: list[Any]) -> list[Any]:
        """The lists of all processes as one, in process order."""
        if self.count == 1:
            return seen
        every: list[list[Any]] = [[] for _ in range(self.count)]
        torch.distributed.all_gather_object(every, seen)
        return [one for of_process in every for one in of_process]

    @contextlib.contextmanager
    def only_main_speaks(self) -> Iterator[None]:
        """Inside, the other processes print nothing; their errors are printed when they leave."""
        if self.main:
            yield
            return
        with (
            open(os.devnull, "w", encoding="utf-8", errors="replace") as nowhere,
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(nowhere),
        ):
            yield

    def _reduced(self, value: float, how: str) -> float:
        if self.count == 1:
            return value
        tensor = torch.tensor([value], dtype=torch.float64, device=self.device)
        self._all_reduce(tensor, how)
        return float(tensor)

    def _all_reduce(self, tensor: torch.Tensor, how: str = "SUM") -> None:
        """Reduces a tensor over all processes, in place.

        Raises:
            ProcessLost: one of them is gone.
        """
        try:
            torch.distributed.all_reduce(tensor, getattr(torch.distributed.ReduceOp, how))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # gloo's own error says that a peer has closed the connection
            raise ProcessLost(
                "Another process of this run has ended; see its error.",
                "Run the same command with --resume auto to continue from the last saved state.",
            ) from error


ALONE = Processes()
"""One process."""


@contextlib.contextmanager
def joined(settings: Settings, notices: list[str]) -> Iterator[Processes]:
    """The processes that `accelerate launch` has started; one process without it.

    Args:
        notices: gets messages for the user about accelerate's configuration.

    Raises:
        ConfigError: `device` names one GPU, which several processes can't share.
    """
    notices += left_out(settings)
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield ALONE
        return
    wanted = settings.model.device
    if wanted not in ("auto", "cuda", "cpu"):
        raise ConfigError(
            f'device is "{wanted}", but there are {count} processes, and each needs its own GPU.',
            'Set device = "auto", and choose the GPUs with accelerate launch --gpu_ids.',
        )
    from accelerate import PartialState  # slow to import, and useless for a single process

    state = PartialState(cpu=pick_device(wanted).type == "cpu", timeout=PATIENCE)
    processes = Processes(state.num_processes, state.process_index, state.device)
    if processes.count != count:  # each would believe it is the main one
        raise ConfigError(
            f"accelerate started {count} processes, but they can't find each other.",
            'Run "accelerate env" to check its configuration.',
        )
    with processes.only_main_speaks():
        yield processes
    state.destroy_process_group()


def left_out(settings: Settings) -> list[str]:
    """Switches off what accelerate's configuration asks for but a run does not use; returns a sentence about each."""
    said = []
    for variable, name in NOT_USED.items():
        if os.environ.pop(variable, "false").lower() in ("true", "1"):
            said.append(
                f"accelerate's configuration asks for {name}, which is not used: each process has the whole frozen "
                "model, and they exchange only the small gradients. base_quantization and blocks_to_swap reduce the "
                "model's memory."
            )
    if os.environ.get("ACCELERATE_USE_CPU", "false").lower() in ("true", "1"):
        said.append(
            "accelerate launch --cpu starts one process and ignores --num_processes; the device is set by device = "
            f'"{settings.model.device}". For several processes, also on CPUs, use --multi_gpu.'
        )
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision not in ("no", settings.model.mixed_precision):
        said.append(
            f'accelerate\'s mixed_precision = "{precision}" is not used; the run uses the setting mixed_precision = '
            f'"{settings.model.mixed_precision}".'
        )
    return said
