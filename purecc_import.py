"""Turns another trainer's settings into a TOML: python purecc_import.py dog.json --trigger ohwx --class_word dog"""

from __future__ import annotations

import sys

from library.environment import prepare_process
from library.errors import exit_code_of
from library.importers.command import run

if __name__ == "__main__":
    prepare_process()
    sys.exit(exit_code_of(lambda: print(run()), lambda: None))
