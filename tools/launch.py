"""Sets the project up and starts it. start.sh and start.bat find a Python and run this file.

It needs only Python. Everything goes into `.venv`, or the folder that PURECC_VENV names; a stamp in there
says what was installed, so that a later start installs only what has changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STAMP = "purecc_installed.json"
TORCH_INDEX = "https://download.pytorch.org/whl"
"""Where PyTorch's install page has the builds that PyPI has not."""
PLAIN_ON_LINUX = "cu130"
"""The build that PyPI has for Linux; for Windows it has one without CUDA."""
TURING, BLACKWELL = (7, 5), (10, 0)
"""Compute capabilities: cu130 holds code from Turing on, cu126 none for Blackwell."""
DRIVER_OF_CUDA_13 = 580
"""Oldest driver for CUDA 13.x, by NVIDIA's table; 12.x runs from 525 on."""
CHECKS = (["ruff", "check", "."], ["ruff", "format", "--check", "."], ["codespell_lib"], ["mypy"])
"""The checks before the tests; pyproject.toml says which files codespell and mypy check."""
EXIT_NOT_SET_UP = 2
USAGE = """\
usage: start                         the window in the browser
       start --demo                  trains the small included model in minutes, without a GPU
       start --test [PATH ...]       lints, checks spelling and types, and runs the tests
       start --install               installs everything and checks this computer for common problems
       start COMMAND [ARGUMENT ...]  purecc_COMMAND.py: {commands}
Each command installs what is missing first."""


class NotSetUp(Exception):
    """What could not be installed or started, and what to do."""


@dataclass(frozen=True)
class Card:
    """An NVIDIA GPU: its driver's major version and its compute capability, None where an old driver hides it."""

    driver: int
    capability: tuple[int, int] | None


def cards() -> list[Card]:
    """The NVIDIA GPUs that nvidia-smi sees; none without it."""
    command = shutil.which("nvidia-smi")
    for fields in ("driver_version,compute_cap", "driver_version") if command else ():
        asked = [command, f"--query-gpu={fields}", "--format=csv,noheader"]
        try:
            said = subprocess.run(asked, capture_output=True, text=True, timeout=60)
        except (OSError, subprocess.SubprocessError):
            return []
        if said.returncode == 0:
            found = [re.fullmatch(r"(\d+)\.[\d.]*(?:, (\d+)\.(\d+))?", line) for line in said.stdout.splitlines()]
            return [Card(int(one[1]), (int(one[2]), int(one[3])) if one[2] else None) for one in found if one]
    return []


def torch_build(found: Sequence[Card], system: str) -> str | None:
    """The build of PyTorch 2.13 that the best GPU needs, by its name in PyTorch's index; None: PyPI's will do.

    Args:
        system: as `sys.platform` says.
    """
    if not found or system not in ("win32", "linux"):
        return None
    best = max(found, key=lambda card: card.capability or (0, 0))
    too_old = best.capability is not None and best.capability < TURING
    new = best.capability is not None and best.capability >= BLACKWELL
    build = "cu126" if too_old or (best.driver < DRIVER_OF_CUDA_13 and not new) else "cu130"
    return None if (system, build) == ("linux", PLAIN_ON_LINUX) else build


def python_in(folder: Path) -> Path:
    """The Python of an environment."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def environment() -> Path:
    """The folder where everything is installed."""
    return Path(os.environ.get("PURECC_VENV") or ROOT / ".venv").absolute()


def wanted() -> str:
    """A text that changes when the requirements do."""
    files = [ROOT / "requirements.txt", ROOT / "pyproject.toml"]
    return hashlib.sha256(b"".join(file.read_bytes().replace(b"\r\n", b"\n") for file in files)).hexdigest()


def is_set_up(folder: Path, dev: bool) -> bool:
    """Whether all that is needed was installed there, with the tools for tests if `dev`."""
    try:
        stamp = json.loads((folder / STAMP).read_text(encoding="utf-8"))
        return stamp["wanted"] == wanted() and (stamp["dev"] or not dev) and python_in(folder).is_file()
    except (OSError, ValueError, KeyError, TypeError):
        return False


def set_up(folder: Path, dev: bool = False) -> None:
    """Makes the environment, with the right PyTorch and all of requirements.txt.

    Raises:
        NotSetUp: something could not be installed. A second call doesn't download what is already there.
    """
    if is_set_up(folder, dev):
        return
    (folder / STAMP).unlink(missing_ok=True)
    if not python_in(folder).is_file():
        make(folder)
    build, version = torch_build(cards(), sys.platform), torch_version()
    if build and not installed(folder, "torch").startswith(f"{version}+cu"):
        install(folder, f"torch=={version}+{build}", "--extra-index-url", f"{TORCH_INDEX}/{build}")
    install(folder, "-r", str(ROOT / "requirements.txt"), *(["-e", f"{ROOT}[dev]"] if dev else []))
    (folder / STAMP).write_text(json.dumps({"wanted": wanted(), "dev": dev}), encoding="utf-8")


def make(folder: Path) -> None:
    """Makes an environment, unless something else is there."""
    if folder.exists() and any(folder.iterdir()):
        raise NotSetUp(
            f"{folder} is not an environment that works on this computer.\n  Delete that folder and start again."
        )
    print(f"Making an environment in {folder} with Python {sys.version.split()[0]}.", flush=True)
    if subprocess.run([sys.executable, "-m", "venv", str(folder)]).returncode:
        shutil.rmtree(folder, ignore_errors=True)
        raise NotSetUp(
            f"{sys.executable} can't make an environment.\n  On Debian and Ubuntu: sudo apt install python3-venv"
        )


def torch_version() -> str:
    """PyTorch's version in requirements.txt."""
    found = re.search(r"^torch==(\S+)", (ROOT / "requirements.txt").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert found, "requirements.txt names torch"
    return found[1]


def installed(folder: Path, package: str) -> str:
    """The version of a package in an environment, "" if it is not there."""
    asked = f"import importlib.metadata as found; print(found.version({package!r}))"
    said = subprocess.run([str(python_in(folder)), "-c", asked], capture_output=True, text=True)
    return said.stdout.strip() if said.returncode == 0 else ""


def install(folder: Path, *what: str) -> None:
    """pip with the user's configuration."""
    os.environ.setdefault("PIP_DISABLE_PIP_VERSION_CHECK", "1")
    print(f"Installing {' '.join(what)}", flush=True)
    if subprocess.run([str(python_in(folder)), "-m", "pip", "install", *what]).returncode:
        raise NotSetUp(
            f"pip could not install {what[0] if len(what) == 3 else 'all of requirements.txt'}; see its message "
            "above.\n  Fix that and start again. To install PyTorch for your GPU by hand, follow "
            f"https://pytorch.org/get-started/locally with {python_in(folder)} -m pip"
        )


def start(folder: Path, *words: str, where: Path | None = None) -> int:
    """Runs the environment's Python in place of this one; returns its exit code, if it returns.

    Args:
        where: folder to run it in; None: the one that the user is in.
    """
    if where:
        os.chdir(where)
    call = [str(python_in(folder)), *words]
    sys.stdout.flush()
    if os.name != "nt":
        os.execv(call[0], call)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C also reaches the child, which saves and ends
    return subprocess.run(call).returncode


def test(folder: Path, words: Sequence[str]) -> int:
    """Lints, checks spelling and types, then runs the tests; returns the first exit code that is not 0."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    for check in CHECKS:
        code = subprocess.run([str(python_in(folder)), "-m", *check], cwd=ROOT).returncode
        if code:
            return code
    options = ["-n", "auto", "--dist", "loadfile", "--no-loadscope-reorder"]
    return start(folder, "-m", "pytest", *options, *(words or ["tests"]), where=ROOT)


def commands() -> list[str]:
    """What is in purecc_*.py."""
    return sorted(file.stem.removeprefix("purecc_") for file in ROOT.glob("purecc_*.py"))


def main(words: list[str]) -> int:
    """Runs the command; returns the exit code."""
    first, rest = (words or ["gui"])[0], words[1:]
    options = ("--demo", "--test", "--install")
    if first in ("-h", "--help"):
        print(USAGE.format(commands=", ".join(commands())))
        return 0
    if first not in (*options, *commands()):
        usage = USAGE.format(commands=", ".join(commands()))
        print(f"error: purecc_{first}.py doesn't exist.\n{usage}", file=sys.stderr)
        return EXIT_NOT_SET_UP
    folder = environment()
    try:
        set_up(folder, dev=first == "--test")
    except (NotSetUp, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_NOT_SET_UP
    os.environ["VIRTUAL_ENV"] = str(folder)
    os.environ["PATH"] = os.pathsep.join([str(python_in(folder).parent), os.environ.get("PATH", "")])
    if first == "--install":
        print(f"Everything is installed in {folder}.", flush=True)
        return start(folder, "-m", "tools.doctor", where=ROOT)
    if first == "--test":
        return test(folder, rest)
    if first == "--demo":
        demo = ["--config_file", "presets/demo.toml", "--resume", "auto"]
        return start(folder, "purecc_train.py", *demo, *rest, where=ROOT)
    return start(folder, str(ROOT / f"purecc_{first}.py"), *rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
