"""The tables of all benchmarks that were run: python -m benchmarks.report [FILE ...]"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.record import table

FOLDER = Path("output/benchmark")


def main() -> None:
    """Prints a table for each file."""
    parser = argparse.ArgumentParser(description="Prints the results of benchmarks as tables.")
    parser.add_argument("files", nargs="*", type=Path, help=f"Default: all in {FOLDER}.")
    files = parser.parse_args().files or sorted(FOLDER.glob("*.json"))
    if not files:
        parser.exit(2, f"error: there is no result in {FOLDER}.\n  Run a benchmark first, such as benchmarks.counts.\n")
    for file in files:
        result = json.loads(file.read_text(encoding="utf-8"))
        where = "" if result["kind"] == "counted" else f" on {result['device']}, torch {result['torch']}"
        print(f"## {result['title']}\n")
        print(f"{result['kind'].capitalize()}{where}, at commit {result['commit']}, by `{result['command']}`\n")
        print(table(result) + "\n")


if __name__ == "__main__":
    main()
