"""What a run needs besides its plan, checked before it starts: one list for run, dry run and doctor.

A check that needs only files, settings and the plan belongs here or in the plan, so that no training time is lost.
What a run later does with a file is tried here with a model on the meta device. A file that fits it fits the real one.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path

from library.errors import (
    ConfigError,
    PureCCError,
    StorageError,
    all_of,
    why_not_written,
)
from library.files.atomic import TEMPORARY, try_writing
from library.files.checkpoint import TENSORS
from library.methods import method_of
from library.parts.branching import makes_fused_steps
from library.parts.learned import Student
from library.parts.network_weights import start_from_weights
from library.parts.parts import Attached
from library.preflight.forecast import counted_parts, counted_student
from library.preflight.plan import Plan
from library.preflight.windows import MAX_PATH
from library.report.trackers import TRACKERS
from library.report.tracking import events_of, tracking_of
from library.saving.keeping import BEST
from library.saving.metadata import own_thumbnail
from library.saving.outputs import load_extractor

UNFINISHED = f"{TEMPORARY}xxxxxxxx"
"""As long as the name of an unfinished file or folder."""
KINDS_OF_FILES = ("diffusers", "onetrainer", "concept", "transformer", "embedding", "extractor")
"""How the names of the student's files end."""


def check(plan: Plan) -> None:
    """Runs every check.

    Raises:
        PureCCError: something is wrong; it lists everything that is.
    """
    problems = [problem for one in CHECKS if (problem := _error_of(one, plan))]
    try:
        parts = counted_parts(plan)
        student = counted_student(parts)
    except PureCCError as error:
        problems.append(error)
    else:
        problems += [problem for one in FITTING if (problem := _error_of(one, parts, student))]
    if problems:
        raise all_of(problems)


def _error_of(check_one: Callable[..., object], *given: object) -> PureCCError | None:
    try:
        check_one(*given)
    except PureCCError as error:
        return error
    return None


# Checks of the plan


def files_written(plan: Plan) -> dict[str, list[Path]]:
    """For each folder setting, the folder that the run writes to and the files with the longest paths in it."""
    settings, saving, cache = plan.settings, plan.settings.saving, plan.parts.cache
    out, name = settings.output_dir, saving.output_name
    kind = max((*KINDS_OF_FILES, *(f"{one.name}_embedding" for one in plan.config.concepts)), key=len)
    longest = [
        f"{name}{BEST}00000000_{kind}.safetensors",
        f"{name}-state/{UNFINISHED}/step-00000000/{TENSORS}",
        "samples/student_000000.png",
        "report.html",
    ]
    files = {"output_dir": [out, *(out / file for file in longest)]}
    if "tensorboard" in TRACKERS[saving.log_with]:
        events = out / events_of(saving)
        folder = ("logging_dir", events.parent) if saving.logging_dir else ("output_dir", out)
        name = f"events.out.tfevents.{'0' * 10}.{socket.gethostname()}.0000000.0"
        files.setdefault(folder[0], [folder[1]]).append(events / name)
    if not may_only_be_read(cache.folder):
        files["cache_dir"] = [cache.folder, cache.folder / cache.place("latents", {})]
    return files


def longest_paths(plan: Plan) -> list[Path]:
    """The longest paths in each folder that a run writes to, absolute. Touches no files."""
    return [file.expanduser().absolute() for _, *files in files_written(plan).values() for file in files]


def may_only_be_read(folder: Path) -> bool:
    """Whether the folder exists and is read-only, which is fine for a cache that already holds everything."""
    return folder.is_dir() and not os.access(folder, os.W_OK)


def folders_take_files(plan: Plan) -> None:
    """The folders for results, logs and cache are writable, even with the longest names that a run uses."""
    problems: list[PureCCError] = []
    for setting, (folder, *files) in files_written(plan).items():
        for file in files:
            try:
                try_writing(file)
            except OSError as error:
                too_long = len(str(file.absolute())) > MAX_PATH if os.name == "nt" else False
                why, remedy = why_not_written(OSError(errno.ENAMETOOLONG, "") if too_long else error)
                what = (
                    f"a file name as long as {file}" if error.errno == errno.ENAMETOOLONG or too_long else f"{folder}"
                )
                problems.append(StorageError(f"{setting}: {what} can't be written: {why}.", f"{remedy}."))
                break
    if problems:
        raise all_of(problems)


def texts_can_be_made(plan: Plan) -> None:
    """Every text to encode can be made, including those of replayed pictures."""
    plan.texts()


def trackers_are_there(plan: Plan) -> None:
    """The trackers of `log_with` are installed, and `log_tracker_config` can be read."""
    tracking_of(plan.settings)


def thumbnail_is_a_picture(plan: Plan) -> None:
    """`metadata_thumbnail` names a picture."""
    own_thumbnail(plan.settings)


def processes_can_share_a_step(plan: Plan) -> None:
    """Several processes exchange gradients, which fused steps do not keep."""
    if plan.processes > 1 and makes_fused_steps(plan.settings):
        raise ConfigError("fused_backward_pass works in one process only.", "Start only one, or turn it off.")


def the_device_can_do_it(plan: Plan) -> None:
    """Rejects what Apple's GPUs can't do: see docs/reference/devices.md."""
    model, network = plan.settings.model, plan.settings.network
    if plan.parts.model.device.type != "mps":
        return
    if model.quantization == "fp8":
        raise ConfigError(
            'device = "mps" has no 8-bit floats, which base_quantization = "fp8" needs.',
            'Set base_quantization = "int8".',
        )
    if model.gradient_checkpointing and (network.network_dropout or network.rank_dropout):
        raise ConfigError(
            'With device = "mps", dropout differs when gradient_checkpointing recomputes a block, so the gradients '
            "would be wrong.",
            "Set network_dropout and rank_dropout to 0, or gradient_checkpointing = false.",
        )


CHECKS: tuple[Callable[[Plan], None], ...] = (
    folders_take_files,
    trackers_are_there,
    thumbnail_is_a_picture,
    processes_can_share_a_step,
    the_device_can_do_it,
    texts_can_be_made,
)
"""Checks of the plan."""


# Checks of what learns


def extractor_fits(parts: Attached, _: Student) -> None:
    """The file of `extractor` has every concept and fits the layers."""
    path = parts.settings.pure_learning.extractor
    if path:
        load_extractor(parts, path)


def network_weights_fit(parts: Attached, student: Student) -> None:
    """The file of `network_weights`, and the vectors next to it, fit what learns."""
    start_from_weights(parts, student, tell=lambda _: None)


def the_methods_files_fit(parts: Attached, _: Student) -> None:
    """The files that the method's own settings name fit the layers."""
    method_of(parts.settings).check_fit(parts.settings, parts.network, len(parts.model.blocks))


FITTING: tuple[Callable[[Attached, Student], None], ...] = (extractor_fits, network_weights_fit, the_methods_files_fit)
"""Checks of what learns: the parts of stage 2, on the meta device."""
