"""Runs on the CPU and on the pretended card, for test_card.py: python -m tests.card.drive FOLDER

In a process of its own, since the card has to be there before torch is imported. Writes `results.json` into the folder:
what each check and each run came to, or why there can be no card.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from library.environment import prepare_process
from tools.pretended_card.loading import NoCard, load

RESULTS = "results.json"


def main(folder: Path) -> None:
    """Makes all checks and runs."""
    results = folder / RESULTS
    try:
        load(folder)
    except NoCard as reason:
        results.write_text(json.dumps({"no card": str(reason)}))
        return
    from tests.card.runs import all_results

    results.write_text(json.dumps(all_results(folder, print), indent=1))


if __name__ == "__main__":
    prepare_process()
    main(Path(sys.argv[1]))
