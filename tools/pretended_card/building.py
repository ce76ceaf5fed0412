"""Compiles the C++ part of the pretended GPU and loads it into a process."""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("card.cpp")


class CannotBuild(Exception):
    """The pretended GPU can't be built here; the message gives the reason."""


def build(folder: Path) -> Path:
    """Compiles the C++ part into a folder, once per PyTorch version, and returns its path.

    Raises:
        CannotBuild: there is no C++ compiler, this isn't Linux, or this PyTorch has CUDA.
    """
    import torch
    from torch.utils.cpp_extension import get_cxx_compiler, include_paths, library_paths

    if sys.platform != "linux":
        raise CannotBuild("the pretended GPU is built on Linux only")
    if torch.backends.cuda.is_built():
        raise CannotBuild("the pretended GPU needs a PyTorch that was built without CUDA")
    key = hashlib.sha256(SOURCE.read_bytes() + torch.__version__.encode()).hexdigest()[:16]
    made = folder / f"pretended_card_{key}.so"
    if made.exists():
        return made
    folder.mkdir(parents=True, exist_ok=True)
    partly = folder / f"{made.name}.{os.getpid()}"
    words = [get_cxx_compiler(), "-std=c++20", "-O0", "-shared", "-fPIC", str(SOURCE), "-o", str(partly)]
    words += [f"-I{path}" for path in include_paths()]
    for path in library_paths():
        words += [f"-L{path}", f"-Wl,-rpath,{path}"]
    try:
        subprocess.run([*words, "-lc10", "-ltorch_cpu"], check=True)
    except FileNotFoundError as error:
        raise CannotBuild("the pretended GPU needs a C++ compiler") from error
    partly.replace(made)
    return made


def insert(made: Path) -> None:
    """Loads the pretended GPU into this process, for as long as the process lives.

    Raises:
        RuntimeError: PyTorch has already been imported and has counted the GPUs.
    """
    if "torch" in sys.modules:
        raise RuntimeError("PyTorch has already looked for GPUs in this process")
    ctypes.CDLL(str(made), ctypes.RTLD_GLOBAL)
