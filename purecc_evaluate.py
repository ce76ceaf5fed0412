"""Measures what a LoRA learned and what it broke: python purecc_evaluate.py evaluate --config_file FILE --lora FILE"""

from __future__ import annotations

import sys
from importlib import import_module

from library.environment import prepare_process
from library.errors import ConfigError, did_you_mean, exit_code_of

COMMANDS = {
    "evaluate": ("library.evaluation.evaluate", "measures LoRAs, and images made elsewhere, on a list of prompts"),
    "audit": ("library.evaluation.audit", "grades what a LoRA changes that it shouldn't: the drift report card"),
    "compare": (
        "library.evaluation.compare",
        "compares methods on your images: same budget, equal tuning",
    ),
    "prompts": ("library.evaluation.prompt_export", "writes a list of prompts for another program to draw"),
    "import": ("library.evaluation.external_import", "renames images made elsewhere, so that evaluate can read them"),
    "weights": ("library.evaluation.weights", "lists the scorers' weights and what is missing"),
}
"""Each command's module, whose `run(words)` returns what to print, and what the command does."""


def main() -> None:
    """Finds the command and runs it."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        print("usage: purecc_evaluate.py COMMAND [--help] ...\n")
        print("\n".join(f"  {name:<10} {about}" for name, (_, about) in COMMANDS.items()))
        return
    if words[0] not in COMMANDS:
        raise ConfigError(f'Command line: "{words[0]}" is not a command.', did_you_mean(words[0], COMMANDS))
    said = import_module(COMMANDS[words[0]][0]).run(words[1:])
    if said:
        print(said)


if __name__ == "__main__":
    prepare_process()
    sys.exit(exit_code_of(main, lambda: None))
