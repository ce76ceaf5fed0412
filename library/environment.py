"""Sets how our process, and other libraries in it, behave. Call it before importing the first of them."""

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
    # OpenMP's threads wait for each other by spinning. On a busy CPU that can make a step many times as long. Sending
    # them to sleep soon costs little on an idle CPU.
    "GOMP_SPINCOUNT": "1000",
    # Our plan reports cut-off prompts, in our own words.
    "DIFFUSERS_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
}
"""Variables that are set unless the user has set them."""
UNUSED_PARTS = ("xformers", "bitsandbytes")
"""Libraries whose messages about unused parts stay off the terminal."""

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
