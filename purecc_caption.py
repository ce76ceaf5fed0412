"""Writes captions, or reviews them: python purecc_caption.py FOLDER --trigger ohwx --class_word dog"""

from __future__ import annotations

import sys

from library.environment import prepare_process
from library.errors import exit_code_of


def main() -> None:
    """Reads the command line and writes the captions."""
    from library.captions.command import run  # torch takes seconds to import

    print(run())


if __name__ == "__main__":
    prepare_process()
    sys.exit(exit_code_of(main, lambda: None))
