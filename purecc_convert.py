"""Converts LoRA files: python purecc_convert.py --lora FILE --to diffusers."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from library.config.family_settings import about_layouts, layout_names
from library.config.files import plain_parser
from library.environment import prepare_process
from library.errors import ConfigError, exit_code_of


def read_command_line() -> argparse.Namespace:
    """The request, checked."""
    parser = plain_parser(
        "Converts LoRAs for Stable Diffusion 3 and 3.5 between layouts, merges several, lowers the rank, shows "
        "metadata, or merges them into a checkpoint. Works with LoRAs of any trainer, and warns you about losses.",
        "--lora FILE [FILE ...] (--to LAYOUT | --bake MODEL | --metadata) [--output FILE]",
    )
    parser.add_argument("--lora", nargs="+", metavar="FILE", help="One LoRA, or several to merge into one.")
    parser.add_argument(
        "--lora_scale", nargs="+", type=float, metavar="NUMBER", help="Strength of each LoRA. Default: 1."
    )
    parser.add_argument(
        "--to",
        choices=layout_names(),
        help=f"Layout of the new file: {about_layouts()}.",
    )
    parser.add_argument(
        "--output", metavar="FILE", help="The new file. Default: next to the LoRA, named after the layout."
    )
    parser.add_argument(
        "--network_dim",
        type=int,
        metavar="N",
        help="Lower the rank of each layer to N. In kohya's layout, q, k and v are one layer of three times that "
        "rank. A LoKr or LoHa becomes the closest LoRA of rank N, 64 by default.",
    )
    parser.add_argument(
        "--save_precision",
        choices=("float", "fp16", "bf16"),
        help="Precision of the new file. Default: that of the LoRA.",
    )
    parser.add_argument("--transformer_only", action="store_true", help="Leave out the part for the text encoders.")
    parser.add_argument(
        "--bake",
        metavar="MODEL",
        help="Merge the LoRA into this checkpoint: a .safetensors file, or a folder in diffusers format. --output "
        "is the new file or folder.",
    )
    parser.add_argument(
        "--metadata", nargs="?", const="print", metavar="FILE", help="Show the metadata, or write it to a JSON file."
    )
    parser.add_argument("--overwrite", action="store_true", help="Replace an existing file.")
    arguments = parser.parse_args()
    if not arguments.lora:
        raise ConfigError("Command line: --lora is needed.", f"See {parser.prog} --help.")
    if arguments.lora_scale is None:
        arguments.lora_scale = [1.0] * len(arguments.lora)
    if len(arguments.lora_scale) != len(arguments.lora):
        raise ConfigError(
            f"Command line: {len(arguments.lora)} LoRAs, but {len(arguments.lora_scale)} numbers in --lora_scale.",
            "Give one number per LoRA.",
        )
    if not all(abs(strength) < 1e4 for strength in arguments.lora_scale):
        raise ConfigError("Command line: --lora_scale must be ordinary numbers, such as 0.8.")
    if arguments.network_dim is not None and arguments.network_dim < 1:
        raise ConfigError(f"Command line: --network_dim is {arguments.network_dim}; it must be at least 1.")
    if arguments.to and arguments.bake:
        raise ConfigError("Command line: --to writes a LoRA, --bake a checkpoint.", "Give one of the two.")
    return arguments


def main() -> None:
    """Reads the command line and writes one file."""
    arguments = read_command_line()

    from library.convert.command import Request, convert  # after the checks: torch takes seconds to import

    request = Request(
        loras=[Path(path).expanduser() for path in arguments.lora],
        strengths=arguments.lora_scale,
        to=arguments.to,
        output=Path(arguments.output).expanduser() if arguments.output else None,
        rank=arguments.network_dim,
        precision=arguments.save_precision,
        transformer_only=arguments.transformer_only,
        model=Path(arguments.bake).expanduser() if arguments.bake else None,
        metadata=arguments.metadata,
        overwrite=arguments.overwrite,
    )
    print("\n".join(convert(request)))


if __name__ == "__main__":
    prepare_process()
    sys.exit(exit_code_of(main, lambda: None))
