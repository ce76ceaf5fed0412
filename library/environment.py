"""How our process behaves, and other libraries in it. To be called before the first of them is imported."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import warnings
from collections.abc import Collection
from types import ModuleType

from library.terminal import outlive_the_terminal

VARIABLES = {
    # OpenMP's threads wait for each other by spinning. On a busy CPU that can stretch a step to many times its length;
    # soon asleep instead, they cost an idle one little.
    "GOMP_SPINCOUNT": "1000",
    # What is cut off of a prompt is part of our plan, in our words.
    "DIFFUSERS_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
}
"""What is set unless the user has set it."""
UNUSED_PARTS = ("xformers", "bitsandbytes")
"""Libraries whose remarks on parts that a run does not use stay off the terminal."""

HIDDEN = ("bitsandbytes", "peft")
"""Libraries that diffusers imports wherever it finds them, for parts that few runs use: seconds of every start."""


def prepare_process(needed: Collection[str] = ()) -> None:
    """Sets what has to be set before anything is printed, and before torch, diffusers and transformers are imported.

    Args:
        needed: hidden libraries that are not hidden here, so that diffusers can use them. Others are imported with
            `imported` by what needs them.
    """
    outlive_the_terminal()
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", category=FutureWarning)
    for name in UNUSED_PARTS:
        logging.getLogger(name).setLevel(logging.ERROR)
    for name in set(HIDDEN) - set(needed):
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # Python's way to say that there is none


def imported(name: str) -> ModuleType:
    """Imports a module, of a hidden library as well.

    Raises:
        ImportError: it can't be imported.
    """
    library = name.partition(".")[0]
    if library in HIDDEN and sys.modules.get(library, ...) is None:
        del sys.modules[library]
    return importlib.import_module(name)
