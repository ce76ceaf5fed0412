"""Sets how our process, and other libraries in it, behave. Call it before importing the first of them."""

from __future__ import annotations

import logging
import os
import warnings

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


def prepare_process() -> None:
    """Sets what must be set before anything is printed, and before torch, diffusers and transformers are imported."""
    outlive_the_terminal()
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", category=FutureWarning)
    for name in UNUSED_PARTS:
        logging.getLogger(name).setLevel(logging.ERROR)
