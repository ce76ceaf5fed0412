"""The tables of all benchmarks that were run: python -m benchmarks.report [FILE ...]"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.record import FOLDER, origin, read, table


def main() -> None:
    """Prints a table for each file."""
    parser = argparse.ArgumentParser(description="Prints the results of benchmarks as tables.")
    parser.add_argument("files", nargs="*", type=Path, help=f"Default: all in {FOLDER}.")
    files = parser.parse_args().files or sorted(FOLDER.glob("*.json"))
    if not files:
        parser.exit(2, f"error: there is no result in {FOLDER}.\n  Run a benchmark first, such as benchmarks.counts.\n")
    for file in files:
        result = read(file)
        print(f"## {result['title']}\n\n{origin(result)}\n\n{table(result)}\n")


if __name__ == "__main__":
    main()
