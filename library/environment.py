"""How our process behaves, and other libraries in it. To be called before the first of them is imported."""

from __future__ import annotations

import logging
import os
import warnings

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


def prepare_process() -> None:
    """Sets what has to be set before anything is printed, and before torch, diffusers and transformers are imported."""
    outlive_the_terminal()
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", category=FutureWarning)
    for name in UNUSED_PARTS:
        logging.getLogger(name).setLevel(logging.ERROR)
