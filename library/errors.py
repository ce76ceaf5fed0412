"""Errors that the user can fix. Each says what is wrong, where, and what to do."""

from __future__ import annotations

import difflib
import errno
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

HEAD_START = 3.0
"""Seconds that one of several processes waits before its error: if the main one has the same, it ends them all."""
EXIT_DOES_NOT_FIT = 1
"""Exit code of a dry run that does not fit into memory."""
EXIT_USER_ERROR = 2
"""Exit code of a run that ended with a `PureCCError`, but for those of training itself."""
EXIT_TRAINING_ERROR = 3
"""Exit code of a run that ended with a `TrainingError`: it had begun, and what was saved until then is there."""
EXIT_FAULT = 70
"""Exit code of a fault of ours, with a traceback (EX_SOFTWARE of sysexits.h)."""
EXIT_INTERRUPTED = 130
"""Exit code of a run that was stopped by Ctrl-C, with its state saved."""


LONGEST_LINE = 600
"""Characters of a line of a message; a longer one, such as one with a value of a megabyte, is cut in its middle."""
MOST_PROBLEMS = 20
"""Mistakes that are shown together; who has made more is likely to have named another kind of file."""
NOT_SHOWN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""What a screen does not show, or obeys: control characters but for the end of a line, and halves of characters."""


def on_a_screen(text: str) -> str:
    """A message with lines of bounded length, and with escapes for characters that a screen can't show."""
    lines = []
    for line in text.split("\n"):
        half = LONGEST_LINE // 2
        if len(line) > LONGEST_LINE:
            line = f"{line[:half]} [... {len(line) - 2 * half} characters ...] {line[-half:]}"
        lines.append(NOT_SHOWN.sub(lambda found: repr(found[0])[1:-1], line))
    return "\n".join(lines)


class PureCCError(Exception):
    """An error that the user can fix.

    Args:
        what: one sentence: where, which setting or file, what is wrong.
        remedy: one sentence: what to do, if known.
    """

    def __init__(self, what: str, remedy: str | None = None) -> None:
        self.what = on_a_screen(what)
        self.remedy = None if remedy is None else on_a_screen(remedy)
        super().__init__(self.what if self.remedy is None else f"{self.what}\n  {self.remedy}")


class ConfigError(PureCCError):
    """A setting, a TOML file or a command line that can't be used."""


class DataError(PureCCError):
    """An image, a caption or a folder that can't be used."""


class ModelError(PureCCError):
    """A model or LoRA file that can't be used."""


class TrainingError(PureCCError):
    """A run that can't continue, such as one whose loss is not a number."""


class StorageError(PureCCError):
    """A file or folder that can't be written, such as on a full disk."""


WHY_NOT_WRITTEN = {
    errno.ENOSPC: ("the disk is full", "Free some space there, or choose a folder on another disk"),
    errno.EDQUOT: ("the disk quota is used up", "Free some space there, or choose a folder on another disk"),
    errno.EFBIG: ("it would be larger than this file system allows", "Choose a folder on another disk"),
    errno.EROFS: ("the folder is read-only", "Choose a folder that you can write to"),
    errno.EACCES: ("its permissions forbid it", "Change them, or choose another folder"),
    errno.EPERM: ("its permissions forbid it", "Change them, or choose another folder"),
    errno.ENOTDIR: ("part of its path is a file, not a folder", "Move that file away, or choose another folder"),
    errno.EEXIST: ("there is a file where a folder is needed", "Move that file away, or choose another folder"),
    errno.EISDIR: ("there is a folder with this name", "Move that folder away, or choose another name"),
    errno.ENAMETOOLONG: ("its name or path is too long", "Choose a shorter output_name or folder"),
    errno.EIO: ("the disk reports an error", "Check that disk, or choose a folder on another one"),
}
"""What the system's errors mean to a user, and what to do."""
NO_PLACE = {errno.ENOENT: ("the folder can't be created", "Choose another folder")}
"""The same of writing alone: elsewhere, a file that is not there is a fault of ours."""


def why_not_written(error: OSError) -> tuple[str, str]:
    """What any error of a write means, and what to do."""
    known = WHY_NOT_WRITTEN | NO_PLACE
    if error.errno in known:
        return known[error.errno]
    return error.strerror or str(error), "Choose another folder"


def not_written(error: OSError, path: Path | str | None, how: str = "written") -> StorageError | None:
    """The error of a write as a sentence; None if the user can't fix it."""
    known = WHY_NOT_WRITTEN | (NO_PLACE if how == "written" else {})
    if error.errno not in known:
        return None
    why, remedy = known[error.errno]
    folders = "output_dir, cache_dir"
    return StorageError(
        f"{path or 'A file'} can't be {how}: {why}.",
        f"{remedy} ({folders}). Earlier saved files are unchanged.",
    )


LACKS_MEMORY = ("out of memory", "allocate memory", "not enough memory", "_STATUS_ALLOC_FAILED")
"""In the texts of errors of PyTorch, CUDA and its libraries where a GPU's or the computer's memory is used up."""


def lacks_memory(error: BaseException) -> bool:
    """Whether an error means that the GPU or the computer is out of memory."""
    said = isinstance(error, RuntimeError) and any(mark in str(error) for mark in LACKS_MEMORY)
    return said or isinstance(error, MemoryError)


def in_words(error: Exception) -> str:
    """An error of any kind, for the middle of a sentence."""
    if lacks_memory(error.__cause__ or error):
        return "out of memory"
    return error.what.removesuffix(".") if isinstance(error, PureCCError) else f"{type(error).__name__}: {error}"


def memory_error(where: str) -> TrainingError:
    """The error for running out of memory outside a training step.

    Args:
        where: the phase, or what else needed the memory.
    """
    return TrainingError(
        f"{where}: out of memory.",
        "Close other programs that use the GPU, lower the resolution, or add --auto_fit to save memory automatically. "
        "--dry_run shows what each phase needs.",
    )


INSTALL_PYTORCH = "Install PyTorch for your GPU again (https://pytorch.org/get-started), then requirements.txt."
GPU_FAILS = {
    "no kernel image is available": ("PyTorch was not built for this GPU", INSTALL_PYTORCH),
    "driver on your system is too old": (
        "the GPU's driver is too old for this PyTorch",
        "Update the driver, or install PyTorch for an older CUDA (https://pytorch.org/get-started).",
    ),
    "driver version is insufficient": (
        "the GPU's driver is too old for this PyTorch",
        "Update the driver, or install PyTorch for an older CUDA (https://pytorch.org/get-started).",
    ),
    **dict.fromkeys(
        (
            "unspecified launch failure",
            "launch timed out",
            "GPU is lost",
            "fallen off the bus",
            "uncorrectable ECC",
            "busy or unavailable",
            "no CUDA-capable device",
            "CUDA error: unknown error",
        ),
        (
            "the GPU does not answer any more",
            "Restart the computer, then run the same command with --resume auto to continue where it was saved. If it "
            "happens again, check the GPU's driver, temperature and power supply.",
        ),
    ),
}
"""In the texts of errors of PyTorch and CUDA where the GPU can't go on: what that means to a user, and what to do."""


def gpu_error(where: str, error: BaseException) -> TrainingError | None:
    """The error of a GPU that can't be used or is gone, as a sentence; None if it is another one.

    Args:
        where: the phase, or what else used it.
    """
    found = (known for mark, known in GPU_FAILS.items() if mark in str(error))
    what, remedy = next(found, ("", "")) if isinstance(error, RuntimeError) else ("", "")
    return TrainingError(f"{where}: {what} ({str(error).splitlines()[0]}).", remedy) if what else None


@contextmanager
def naming(setting: str) -> Iterator[None]:
    """Inside, errors name the setting that is wrong."""
    try:
        yield
    except PureCCError as error:
        if setting in error.what:
            raise
        raise type(error)(f"{setting}: {error.what}", error.remedy) from error


class Interrupted(Exception):
    """The user pressed Ctrl-C; everything is saved. Its text says how to continue."""


def all_of(errors: Sequence[PureCCError]) -> PureCCError:
    """One error that shows `errors`, so that a file can be fixed at once; at most the first `MOST_PROBLEMS`."""
    if len(errors) == 1:
        return errors[0]
    shown = [str(error) for error in errors[:MOST_PROBLEMS]]
    if len(errors) > MOST_PROBLEMS:
        shown.append("There are more errors; only the first ones are shown.")
    return type(errors[0])("\nerror: ".join(shown))


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The entry of `known` that `word` was most likely meant to be, or None."""
    by_lower_case = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word[:LONGEST_LINE].lower(), by_lower_case, n=1, cutoff=0.6)
    return by_lower_case[close[0]] if close else None


FEW = 12
"""Up to this number, all names are shown; of more, the `NEAREST` ones."""
NEAREST = 5


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A remedy for a misspelt name: the nearest known one, otherwise all names if they are few, or the five nearest."""
    names = sorted(known)
    guess = nearest(word, names)
    if guess:
        return f'Did you mean "{guess}"?'
    if len(names) <= FEW:
        return f"Choose one of: {', '.join(names)}."
    close = difflib.get_close_matches(word[:LONGEST_LINE].lower(), names, n=NEAREST, cutoff=0.0)
    return f"The closest names are: {', '.join(close)}."


def is_main_process() -> bool:
    """Whether this is the main one of the processes that `accelerate launch` starts, known before PyTorch is there."""
    import os

    return os.environ.get("RANK", "0") == "0"


def exit_code_of(main: Callable[[], None], where_is_the_log: Callable[[], str | None]) -> int:
    """Runs `main` and turns its result into an exit code.

    A `PureCCError` prints as one sentence and a remedy, without a traceback; Ctrl-C says how to continue. Anything else
    is a bug: it prints its traceback and says where the log is.
    """
    import time

    main_process = is_main_process()
    try:
        main()
    except PureCCError as error:
        if not main_process:
            time.sleep(HEAD_START)
        print(f"error: {error}", file=sys.stderr)
        return exit_code_for(error)
    except (Interrupted, KeyboardInterrupt) as stop:
        if main_process:
            print(str(stop) or "Stopped.", file=sys.stderr)
        return exit_code_for(stop)
    except OSError as error:
        known = not_written(error, error.filename2 or error.filename, "read or written")
        if known is None:
            return _fault(error, where_is_the_log)
        print(f"error: {known}", file=sys.stderr)
        return exit_code_for(known)
    except Exception as fault:  # the last resort: nothing above handles it
        if broken := gpu_error("The run", fault):
            print(f"error: {broken}", file=sys.stderr)
            return EXIT_TRAINING_ERROR
        if not lacks_memory(fault):
            return _fault(fault, where_is_the_log)
        print(f"error: {memory_error(str(fault).splitlines()[0] if str(fault) else 'Python')}", file=sys.stderr)
        return EXIT_TRAINING_ERROR
    return 0


def _fault(fault: Exception, where_is_the_log: Callable[[], str | None]) -> int:
    import traceback

    traceback.print_exc()
    log = where_is_the_log()
    if log:
        print(f"This is a bug in the trainer. The log of the run is {log}", file=sys.stderr)
    return exit_code_for(fault)


def exit_code_for(error: BaseException | None) -> int:
    """The exit code of a run that ended with this error; None: it succeeded."""
    if error is None:
        return 0
    if isinstance(error, TrainingError):
        return EXIT_TRAINING_ERROR
    if isinstance(error, PureCCError):
        return EXIT_USER_ERROR
    return EXIT_INTERRUPTED if isinstance(error, (Interrupted, KeyboardInterrupt)) else EXIT_FAULT
