"""Fuses LoRAs: python purecc_fuse.py --config_file FILE --lora A B --prompt "a sks dog" "a ohwx cat"."""

from __future__ import annotations

import sys
from pathlib import Path

from library.config.dataset_file import as_size, read_concepts_and_pictures
from library.config.files import add_settings_to, command_line_parser, config_file_of, read_settings, settings_given
from library.drawing.sample_prompts import read_prompt_lines
from library.environment import prepare_process
from library.errors import ConfigError, exit_code_of


def main() -> None:
    """Reads the command line and writes one LoRA."""
    parser = command_line_parser(
        "Fuses the LoRAs of several concepts into one (Mix-of-Show's gradient fusion, CIFC's weight aggregation)."
    )
    parser.add_argument("--lora", nargs="+", metavar="FILE", help="LoRAs in any layout, one per concept.")
    parser.add_argument(
        "--prompt",
        nargs="+",
        metavar="TEXT",
        help="One prompt for each LoRA, with its trigger, or a .txt file with several, one per line.",
    )
    parser.add_argument(
        "--mu", type=float, default=0.1, help="How much other prompts count. 0: as published. Default: 0.1."
    )
    parser.add_argument(
        "--fusion",
        choices=("closed", "lbfgs", "elastic"),
        default="closed",
        help="Gradient fusion, solved exactly (closed) or as published (lbfgs), or CIFC's weighted sum for one "
        "--prompt (elastic). Default: closed.",
    )
    add_settings_to(parser)
    arguments = parser.parse_args()
    if not arguments.lora or not arguments.prompt:
        raise ConfigError("Command line: --lora and --prompt are needed.", f"See {parser.prog} --help.")
    if arguments.mu < 0:
        raise ConfigError(f"Command line: --mu is {arguments.mu}; it must be 0 or more.")
    file = config_file_of(arguments)
    settings = read_settings(file, settings_given(arguments))

    from library.convert.fusing import Fusion, aggregate, fuse  # after the settings: slow to import
    from library.files.cache_limit import CacheUse

    loras = [Path(path).expanduser() for path in arguments.lora]
    size = as_size(settings.data.resolution, "resolution")
    if settings.data.dataset_config or (file and "datasets" in file.tables):
        size = read_concepts_and_pictures(file, settings).datasets[0].resolution
    if arguments.fusion == "elastic":
        if len(arguments.prompt) != 1:
            raise ConfigError("Command line: --fusion elastic is for one --prompt, the one to be drawn.")
        with CacheUse(settings.saving.cache_dir, settings.saving.max_cache_bytes):
            weights = aggregate(settings, loras, arguments.prompt[0], size)
        print(", ".join(f"{trigger} at {weight:.2f}" for trigger, weight in weights.items()))
        return
    with CacheUse(settings.saving.cache_dir, settings.saving.max_cache_bytes):
        prompts = [prompts_of(given) for given in arguments.prompt]
        fuse(settings, loras, prompts, size, Fusion(arguments.mu, arguments.fusion))


def prompts_of(given: str) -> list[str]:
    """The prompts of a text file, or the prompt itself."""
    if not given.endswith(".txt"):
        return [given]
    return read_prompt_lines(given, "--prompt")


if __name__ == "__main__":
    prepare_process()
    sys.exit(exit_code_of(main, lambda: None))
