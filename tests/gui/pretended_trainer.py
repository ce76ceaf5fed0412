"""Stands in for purecc_train.py and its siblings: it obeys control/, writes status.json and trains nothing."""

import json
import os
import sys
import time
import tomllib
from datetime import UTC, datetime
from pathlib import Path


def option(name: str) -> str | None:
    """The value of a command line option, written either way."""
    for place, word in enumerate(sys.argv):
        if word == f"--{name}":
            return sys.argv[place + 1]
        if word.startswith(f"--{name}="):
            return word.partition("=")[2]
    return None


def train(tables: dict) -> int:
    """Goes on until it is told to stop, or ends as the file `how` in its folder says."""
    folder = Path(tables["saving"]["output_dir"])
    how = (folder / "how").read_text() if (folder / "how").is_file() else "wait"
    if how == "mistake":
        print('error: dog.toml:3 [optimizer]: "etta" is not a setting.\n  Did you mean "eta"?', flush=True)
        return 2
    status = {
        "format": 1,
        "state": "running",
        "pid": os.getpid(),
        "total_steps": 10,
        "total_step": 3,
        "stage": "student",
    }
    status |= {"started_at": datetime.now(UTC).isoformat(timespec="seconds"), "activity": "student", "phases": []}
    status |= {"resumed": option("resume"), "exit_code": None, "exit_reason": None}
    control = folder / "control"
    control.mkdir(exist_ok=True)
    write(folder, status)
    while how == "wait" and not (control / "stop").exists():
        time.sleep(0.02)
    (control / "stop").unlink(missing_ok=True)
    control.rmdir()
    write(folder, status | {"state": "stopped" if how == "wait" else "done", "exit_code": 130 if how == "wait" else 0})
    return 0


def write(folder: Path, status: dict) -> None:
    """Whole or not at all."""
    part = folder / ".part-status"
    part.write_text(json.dumps(status | {"updated_at": datetime.now(UTC).isoformat(timespec="seconds")}))
    part.replace(folder / "status.json")


def audit(folder: Path) -> int:
    """A card that says what it was called with."""
    folder.mkdir()
    grade = {"name": "behaviour kept", "letter": "B", "because": "<b>"}
    (folder / "audit.json").write_text(json.dumps({"loras": [{"grades": [grade]}], "words": sys.argv[2:]}))
    (folder / "audit.html").write_text("<p>card")
    return 0


if sys.argv[1] == "audit":
    sys.exit(audit(Path(option("out"))))
if output := option("output"):
    Path(output).write_bytes(b"\x89PNG pretended")
    sys.exit(0)
sys.exit(train(tomllib.loads(Path(option("config_file")).read_text(encoding="utf-8"))))
