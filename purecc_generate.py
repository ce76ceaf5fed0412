"""Draws with a LoRA: python purecc_generate.py --config_file FILE --lora FILE --prompt "a photo of a [V] dog"."""

from __future__ import annotations

import sys
from pathlib import Path

from library.config.dataset_file import as_size, read_concepts_and_pictures
from library.config.files import add_settings_to, command_line_parser, config_file_of, read_settings, settings_given
from library.environment import prepare_process
from library.errors import ConfigError, exit_code_of


def main() -> None:
    """Reads the command line and writes one sheet."""
    parser = command_line_parser("Draws prompts with and without a LoRA, from the same seeds, on one sheet.")
    parser.add_argument("--lora", metavar="FILE", help="The LoRA, in any layout.")
    parser.add_argument(
        "--concept",
        metavar="FILE",
        help="Concept vectors to add. Default: NAME_concept.safetensors next to the LoRA, if the LoRA needs it. "
        '"none" leaves them out.',
    )
    parser.add_argument("--prompt", nargs="+", metavar="TEXT", help="Prompts to draw; [V] stands for the trigger.")
    parser.add_argument("--lora_scale", type=float, default=1.0, help="Strength of the LoRA. Default: 1.")
    parser.add_argument("--output", metavar="FILE", help="File for the sheet. Default: OUTPUT_DIR/generated.png.")
    add_settings_to(parser)
    arguments = parser.parse_args()
    if not arguments.lora or not arguments.prompt:
        raise ConfigError("Command line: --lora and --prompt are needed.", f"See {parser.prog} --help.")
    file = config_file_of(arguments)
    settings = read_settings(file, settings_given(arguments))

    from library.adapters.files import concept_file_for  # after the settings: slow to import
    from library.drawing.generation import generate

    lora = Path(arguments.lora).expanduser()
    concepts, size = [], as_size(settings.data.resolution, "resolution")
    if settings.data.dataset_config or (file and "concepts" in file.tables):
        config = read_concepts_and_pictures(file, settings)
        concepts, size = config.concepts, config.datasets[0].resolution
    output = Path(arguments.output).expanduser() if arguments.output else settings.output_dir / "generated.png"
    concept_file = concept_file_for(lora, arguments.concept)
    generate(settings, lora, concept_file, concepts, arguments.prompt, arguments.lora_scale, size, output)
    print(f"Saved {output}")


if __name__ == "__main__":
    prepare_process()
    sys.exit(exit_code_of(main, lambda: None))
