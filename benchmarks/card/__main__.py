"""What a card makes of this trainer, in one command: python -m benchmarks.card

For the first run on a kind of card that nobody has tried. It asks whether the numbers are those of the CPU, how much
memory the presets take and how long steps do, and writes `docs/card/NAME.md` and `NAME.json`. Nothing is downloaded:
the full-size model has random weights. A question that fails is a line in the table, and the next one is asked. After
`--minutes` no new question is asked; the same command goes on with those that are left.

Without an NVIDIA card, or with `--short`, all of it runs on the small bundled model with few rounds, which says nothing
about speed and checks the questions themselves.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.record import ROOT, commit, device_name, table
from library.environment import prepare_process
from library.errors import exit_code_of

LONGEST = 300
"""Seconds after which a question is given up."""


def answer(name: str, folder: Path, device: str, short: bool) -> dict[str, Any]:
    """Asks one question in this process; an error is its answer."""
    import torch

    from benchmarks.card.questions import QUESTIONS
    from benchmarks.card.scale import Scale

    begin = time.perf_counter()
    try:
        rows, failed = QUESTIONS[name].ask(Scale(folder, torch.device(device), short)), None
    except Exception as error:
        rows, failed = [], f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
    return {"rows": rows, "failed": failed, "seconds": time.perf_counter() - begin}


def answer_apart(name: str, device: str) -> dict[str, Any]:
    """The same in a process of its own, so that nothing of it is left on the card, however it ends."""
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "answer.json"
        words = [sys.executable, "-m", "benchmarks.card", "--ask", name, "--device", device, "--answer", str(file)]
        try:
            done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=LONGEST)
        except subprocess.TimeoutExpired:
            return {"rows": [], "failed": f"not answered within {LONGEST} s", "seconds": LONGEST}
        if file.is_file():
            return json.loads(file.read_text(encoding="utf-8"))
        said = done.stderr.strip().splitlines()
        return {"rows": [], "failed": said[-1] if said else f"ended with {done.returncode}", "seconds": 0.0}


def as_page(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    from benchmarks.card.questions import QUESTIONS

    about = f"Measured at commit {result['commit']} with PyTorch {result['torch']}, by `python -m benchmarks.card`."
    parts = [f"# {result['device']}", about]
    if result["short"]:
        parts.append("The short form: all of it on the small bundled model. It says nothing about speed or memory.")
    for name, question in QUESTIONS.items():
        found = result["answers"].get(name)
        parts.append(f"## {question.about}")
        if found is None:
            parts.append("Not asked yet: the same command goes on.")
            continue
        if found["failed"]:
            parts.append(f"FAILED: {found['failed']}")
        if found["rows"]:
            shown = {key: one for key, one in question.columns.items() if any(key in row for row in found["rows"])}
            parts.append(table({"columns": shown, "rows": found["rows"]}))
    return "\n\n".join(parts) + "\n"


def ask_all(folder: Path, short: bool, minutes: float, names: list[str]) -> Path:
    """Asks what has not been answered yet; returns the page.

    Args:
        folder: for the page and its JSON file.
    """
    import torch

    from library.files.atomic import write_text

    cuda = torch.cuda.is_available()
    short = short or not cuda
    device = device_name()
    name = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-") + ("-short" if short else "")
    file, page = folder / f"{name}.json", folder / f"{name}.md"
    about = {"device": device, "commit": commit(), "torch": torch.__version__, "short": short}
    before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    same = all(before.get(key) == value for key, value in about.items())
    answers = before["answers"] if same else {}
    end = time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory() as temporary:
        for one in names:
            if one in answers or time.monotonic() > end:
                continue
            print(f"{one} ...", file=sys.stderr, flush=True)
            answers[one] = answer(one, Path(temporary), "cpu", True) if short else answer_apart(one, "cuda")
            result = {**about, "answers": answers}
            write_text(file, json.dumps(result, indent=1) + "\n")
            write_text(page, as_page(result))
    return page


def main() -> None:
    """Asks, or as the child answers."""
    from benchmarks.card.questions import QUESTIONS

    parser = argparse.ArgumentParser(prog="python -m benchmarks.card", description="What a card makes of this trainer.")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "card", help="Default: docs/card.")
    parser.add_argument("--minutes", type=float, default=10.0, help="After so many no new question is asked.")
    parser.add_argument("--short", action="store_true", help="On the small bundled model, with few rounds.")
    parser.add_argument("--only", nargs="+", choices=QUESTIONS, default=list(QUESTIONS), metavar="NAME")
    for hidden in ("--ask", "--device", "--answer"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.ask:
        folder = Path(tempfile.mkdtemp())
        try:
            found = answer(given.ask, folder, given.device, short=False)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        Path(given.answer).write_text(json.dumps(found), encoding="utf-8")
        return
    print(f"Saved {ask_all(given.out, given.short, given.minutes, given.only)}")


if __name__ == "__main__":
    prepare_process()
    sys.exit(exit_code_of(main, lambda: None))
