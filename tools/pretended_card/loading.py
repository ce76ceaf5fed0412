"""Gets the pretended card into the process; to be called before torch is imported."""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parent / "card.cpp"
COMPILERS = ("c++", "g++", "clang++")


class NoCard(Exception):
    """There can be no pretended card here; says why."""


def load(folder: Path) -> None:
    """Compiles the card into `folder`, unless it is there, and loads it.

    Raises:
        NoCard: no Linux, no compiler, or a PyTorch that has CUDA of its own.
    """
    if "torch" in sys.modules:
        raise RuntimeError("torch is imported already, and it has seen that there is no card")
    compiled = folder / "card.so"
    library = compile_card(compiled)
    for name in [*sorted(library.glob("libgomp*")), library / "libc10.so", library / "libtorch_cpu.so"]:
        ctypes.CDLL(str(name), ctypes.RTLD_GLOBAL)
    ctypes.CDLL(str(compiled))


def compile_card(compiled: Path) -> Path:
    """Compiles the card unless that is done; returns the folder of PyTorch's own libraries.

    Raises:
        NoCard: see `load`.
    """
    spec = importlib.util.find_spec("torch")
    if not sys.platform.startswith("linux") or spec is None or spec.origin is None:
        raise NoCard("the pretended card is made for Linux")
    torch = Path(spec.origin).parent
    library = torch / "lib"
    if list(library.glob("libtorch_cuda*")) or list(library.glob("libtorch_hip*")):
        raise NoCard("this PyTorch was built for real cards")
    if not compiled.exists():
        compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
        if compiler is None:
            raise NoCard(f"there is no C++ compiler ({', '.join(COMPILERS)})")
        options = ["-std=c++20", "-O0", "-shared", "-fPIC", f"-I{torch}/include", f"-L{library}"]
        words = [compiler, *options, str(SOURCE), "-lc10", "-ltorch_cpu", "-o", str(compiled)]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            raise NoCard(f"{compiler} can't compile it: {done.stderr.strip()[-500:]}")
    return library
