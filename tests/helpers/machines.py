"""Computers, and the doctor's findings about them."""

from __future__ import annotations

import dataclasses

from library.config.groups import groups
from library.preflight.finding import describe_findings
from library.preflight.machine import Machine, machine_findings

GOOD = Machine(
    card="RTX 3060",
    driver="580.10",
    cuda="13.0",
    works=True,
    capability=(8, 6),
    architectures=("sm_80", "sm_86", "sm_120"),
    free=11 * 2**30,
    total=12 * 2**30,
    packages={"torch": ("2.13.0", "2.13.0")},
)
FULL_SIZE = 24


def said_of(machine: dict, blocks: int = FULL_SIZE, **settings) -> str:
    model = groups()["model"](pretrained_model_name_or_path="m", **settings)
    return describe_findings(machine_findings(dataclasses.replace(GOOD, **machine), model, blocks))
