"""Finds likely problems of the computer, each with a remedy: GPU, driver, precision and packages."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from library.config.settings import ModelSettings
from library.errors import INSTALL_PYTORCH
from library.preflight.finding import Finding
from library.preflight.forecast import DESKTOP, GIB
from library.preflight.windows import POLICY, SPILLS, longest_path, spills

REQUIREMENTS = Path(__file__).parents[2] / "requirements.txt"
LOOKED_AT = ("torch", "diffusers", "transformers", "accelerate", "safetensors", "numpy", "pillow")
"""Packages whose versions decide whether a run works; the others serve only parts of it."""
LARGE_MODEL = 12
"""With this many blocks or more, training on a CPU takes days."""
HAS_BF16 = (8, 0)
"""Lowest compute capability of GPUs that multiply matrices in bf16."""


@dataclass(frozen=True)
class Machine:
    """What the computer has.

    Args:
        card, driver: name of the NVIDIA GPU that its driver reports, and the driver's version; None: no NVIDIA GPU.
        cuda: CUDA version that PyTorch was built for; None: built without CUDA.
        works: PyTorch can use a GPU.
        capability: that GPU's compute capability.
        architectures: what PyTorch was built for, such as "sm_86".
        free, total: bytes of GPU memory.
        spills: the driver moves what doesn't fit on the GPU into the computer's memory.
        longest_path: most characters that a path may have; None: no limit.
        packages: for each package, the version in requirements.txt and the installed one, or None if it is missing.
    """

    card: str | None = None
    driver: str | None = None
    cuda: str | None = None
    works: bool = False
    capability: tuple[int, int] | None = None
    architectures: tuple[str, ...] = ()
    free: int = 0
    total: int = 0
    spills: bool = False
    longest_path: int | None = None
    packages: Mapping[str, tuple[str, str | None]] = field(default_factory=dict)


def this_machine() -> Machine:
    """The computer that this process runs on."""
    card, driver = _driver()
    works = torch.cuda.is_available()
    free, total = torch.cuda.mem_get_info() if works else (0, 0)
    return Machine(
        card=card,
        driver=driver,
        cuda=torch.version.cuda,
        works=works,
        capability=torch.cuda.get_device_capability() if works else None,
        architectures=tuple(torch.cuda.get_arch_list()) if works else (),
        free=free,
        total=total,
        spills=spills(works),
        longest_path=longest_path(),
        packages=_packages(),
    )


def machine_findings(machine: Machine, settings: ModelSettings, blocks: int) -> list[Finding]:
    """What is likely to go wrong on a computer.

    Args:
        blocks: number of blocks of the transformer.
    """
    found = [*_card(machine), *_memory(machine), *_of_packages(machine)]
    on_card = machine.works and settings.device != "cpu"
    if on_card:
        return [*found, *_precision(machine, settings)]
    planned_for_another = settings.card is not None or settings.vram_gb is not None
    if not planned_for_another and blocks >= LARGE_MODEL:
        found.append(
            Finding(
                f"Training a model of {blocks} blocks on the CPU takes days.",
                'Train on a computer with an NVIDIA GPU. --card "RTX 3060" --dry_run estimates its time and memory.',
            )
        )
    if settings.mixed_precision == "fp16":
        found.append(
            Finding(
                "On a CPU, fp16 is slow and rounds small numbers to zero.", 'Set mixed_precision = "no", or "bf16".'
            )
        )
    return found


def unused_card(machine: Machine, settings: ModelSettings) -> list[Finding]:
    """Why the run uses the CPU although the computer has an NVIDIA GPU."""
    return [] if machine.works or settings.device != "auto" else [*_card(machine)]


def _card(machine: Machine) -> Iterator[Finding]:
    if machine.card and machine.cuda is None:
        yield Finding(
            f"There is a {machine.card}, but PyTorch was built without CUDA and can't use it.", INSTALL_PYTORCH
        )
    elif machine.card and not machine.works:
        yield Finding(
            f"There is a {machine.card}, but PyTorch can't use it with driver {machine.driver}: it was built for CUDA "
            f"{machine.cuda}.",
            f"Update the driver to one for CUDA {machine.cuda}, or install PyTorch for an older CUDA.",
        )
    elif machine.capability and machine.architectures and not _fits(machine.capability, machine.architectures):
        yield Finding(
            f"PyTorch was not built for {machine.card or 'this GPU'}, compute capability "
            f"{machine.capability[0]}.{machine.capability[1]}.",
            INSTALL_PYTORCH,
        )


def _fits(capability: tuple[int, int], architectures: tuple[str, ...]) -> bool:
    """Whether code for one of these architectures runs: same generation and not newer, or compiled when loaded.

    AMD's GPUs have other names; if none of the names is known, the answer is True.
    """
    matches = (re.fullmatch(r"(sm|compute)_(\d+)(\d)[a-z]?", name) for name in architectures)
    known = [match.groups() for match in matches if match]
    for kind, major, minor in known:
        if kind == "sm" and int(major) == capability[0] and int(minor) <= capability[1]:
            return True
        if kind == "compute" and (int(major), int(minor)) <= capability:
            return True
    return not known


def _memory(machine: Machine) -> Iterator[Finding]:
    held = machine.total - machine.free
    if machine.works and held > 2 * DESKTOP:
        close = "Close ComfyUI, other trainings and browsers with many tabs; nvidia-smi lists them."
        yield Finding(
            f"Other programs use {held / GIB:.1f} of the GPU's {machine.total / GIB:.1f} GiB, so "
            f"{machine.free / GIB:.1f} GiB are free.{f' {SPILLS}' if machine.spills else ''}",
            f"{close} {POLICY}" if machine.spills else close,
        )


def _precision(machine: Machine, settings: ModelSettings) -> Iterator[Finding]:
    name = machine.card or "This GPU"
    if settings.mixed_precision == "bf16" and machine.capability and machine.capability < HAS_BF16:
        yield Finding(
            f"{name} does not support bf16, so each step takes many times as long.", 'Set mixed_precision = "fp16".'
        )
    if settings.mixed_precision == "no":
        yield Finding(
            'mixed_precision is "no": everything runs in float32, with twice the memory and more time.',
            'Set mixed_precision = "bf16", or "fp16" for GPUs before the RTX 30 series.',
        )


def _of_packages(machine: Machine) -> Iterator[Finding]:
    others = {name: one for name, one in machine.packages.items() if one[1] != one[0]}
    if others:
        said = ", ".join(
            f"{name} is {found} instead of {wanted}" if found else f"{name} {wanted} is missing"
            for name, (wanted, found) in others.items()
        )
        yield Finding(
            f"Packages differ from the versions the trainer was tested with: {said}.", "pip install -r requirements.txt"
        )


def _driver() -> tuple[str | None, str | None]:
    """Name of the first NVIDIA GPU and version of its driver, from nvidia-smi."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return None, None
    try:
        asked = [command, "--query-gpu=name,driver_version", "--format=csv,noheader"]
        said = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None, None
    name, _, driver = (said.splitlines() or [""])[0].partition(",")
    return name.strip() or None, driver.strip() or None


def _packages() -> dict[str, tuple[str, str | None]]:
    if not REQUIREMENTS.is_file():
        return {}
    wanted = dict(re.findall(r"^([\w-]+)==(\S+)", REQUIREMENTS.read_text(encoding="utf-8"), flags=re.MULTILINE))
    return {name: (wanted[name], _version(name)) for name in LOOKED_AT if name in wanted}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None
