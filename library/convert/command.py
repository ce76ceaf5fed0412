"""What `purecc_convert.py` does: read, add up, shrink, write; each step reports what it loses."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch

import library.models.opening  # noqa: F401  # whose families name the layers of files
from library.adapters.changes import FileChange
from library.adapters.files import PRECISIONS, read_changes, read_lora, read_safetensors, write_lora
from library.adapters.lora_names import ALL_NAMES, LoraNames
from library.adapters.metadata import shown
from library.adapters.network import LayerWeights
from library.adapters.peft import FOLDED_SCALE, PEFT_CONFIG
from library.adapters.reading import LoraFile
from library.convert.bake import bake
from library.convert.merge import added, merged
from library.convert.resize import Lost, closest, resized
from library.errors import ConfigError, ModelError
from library.files.atomic import saved_at, write_text

T = TypeVar("T")

OF_THE_OLD_KIND = ("ss_network_module", "ss_network_args")
"""Metadata that is no longer true if a LoRA was converted from another kind."""
OF_THE_OLD_FILE = ("sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256", FOLDED_SCALE, PEFT_CONFIG)
"""Metadata that is no longer true in another file; alpha, which PEFT's has, is in the weights by then."""
USUAL_RANK = 64
"""Rank of the LoRA that stands for what is not exactly one, if --network_dim names no other."""
EXACT = 1e-6
"""Differences below this share of an update are those of computing in float32."""


@dataclass(frozen=True)
class Request:
    """What the user asks for; see `purecc_convert.py --help`.

    Args:
        strengths: one for each LoRA.
        output: None: beside the first LoRA.
        metadata: "print", or the JSON file that it is written to.
    """

    loras: Sequence[Path]
    strengths: Sequence[float]
    to: str | None = None
    output: Path | None = None
    rank: int | None = None
    precision: str | None = None
    transformer_only: bool = False
    model: Path | None = None
    metadata: str | None = None
    overwrite: bool = False


def convert(request: Request) -> list[str]:
    """Runs the request; returns a report.

    Raises:
        ConfigError: the request contradicts itself, or a file is in the way.
        ModelError: a file can't be used, or not as exactly as it would have to be.
    """
    if request.metadata:
        return _metadata(request, request.metadata)
    output = _output_of(request)
    files = [read_changes(path) for path in request.loras]
    _check_layout(request, files[0].names)
    said = [_described(path, file) for path, file in zip(request.loras, files, strict=True)]
    said += [line for path, file in zip(request.loras, files, strict=True) for line in _left_out(path, file)]
    if request.transformer_only:
        files = [_transformer_of(file) for file in files]
    _check_families(request.loras, files)
    if not any(file.layers or file.whole for file in files):
        raise ModelError("Nothing is left of the LoRA.")
    if request.model and not request.rank:
        changes = added([{**file.layers, **file.whole} for file in files], request.strengths)
        return [*said, *_baked(changes, request.model, output)]
    low_rank = []
    for path, file in zip(request.loras, files, strict=True):
        layers, lines = _as_lora(path, file, request.rank or USUAL_RANK)
        low_rank.append(layers)
        said += lines
    layers = low_rank[0]
    if len(files) > 1 or request.strengths[0] != 1:
        layers = merged(low_rank, request.strengths)
    if request.rank:
        layers, lost = resized(layers, request.rank)
        said.append(f"Rank {request.rank}: {_loss(lost)}")
    if request.model:
        return [*said, *_baked(layers, request.model, output)]
    return [*said, *_write(request, files, layers, output), f"Saved {saved_at(output)}"]


def _as_lora(path: Path, file: LoraFile, rank: int) -> tuple[dict[str, LayerWeights], list[str]]:
    """A file's layers as a LoRA, and notes on those that are not exactly one."""
    if not file.whole:
        return file.layers, []
    layers, lost = closest(file.whole, rank)
    line = f"{path.name}: {len(layers)} layers are not plain LoRAs; each becomes the closest one of rank {rank}."
    return {**file.layers, **layers}, [f"{line} {_loss(lost)}"]


def _loss(lost: Lost) -> str:
    return f"{lost.overall:.2%} of the update's length is lost; layer {lost.layer} loses most, {lost.worst:.2%}."


def _baked(changes: Mapping[str, FileChange], model: Path, output: Path) -> list[str]:
    baked = bake(changes, model, output)
    return [
        f"Changed {baked.layers} weights; rounding to the checkpoint's precision lost {baked.lost:.2%} of the "
        "update's length.",
        f"Saved {saved_at(output)}",
    ]


def _check_layout(request: Request, names: LoraNames) -> None:
    if request.to is not None and request.to not in names.layouts:
        raise ConfigError(
            f"Command line: --to {request.to}: LoRAs for {names.model} have no such layout.",
            f"They have {', '.join(names.layouts)}.",
        )


def _output_of(request: Request) -> Path:
    """The path of the result. Nothing is there, or the user agreed to replace it."""
    layouts = {name: layout for names in reversed(ALL_NAMES) for name, layout in names.layouts.items()}
    if request.model is None and request.to is None:
        raise ConfigError(
            "Command line: nothing to do.", f"Give --to {{{','.join(layouts)}}}, --bake MODEL or --metadata."
        )
    first, output = request.loras[0], request.output
    if output is None:
        if request.to is None or request.model or len(request.loras) > 1:
            raise ConfigError("Command line: --output is missing.", "Give the new file or folder.")
        stem = first.stem
        for layout in layouts.values():
            stem = stem.removesuffix(layout.ending)
        output = first.with_name(f"{stem}{layouts[request.to].ending}.safetensors")
    is_folder = request.model is not None and request.model.is_dir()
    if output.suffix != ".safetensors" and not is_folder:
        raise ConfigError(f"Command line: --output {output} must end in .safetensors.")
    for source in [*request.loras, *([request.model] if request.model else [])]:
        inside = is_folder and source.resolve() in output.resolve().parents
        if output.resolve() == source.resolve() or inside:
            raise ConfigError(f"Command line: the result would overwrite {source}.", "Give another --output.")
        if is_folder and output.resolve() in source.resolve().parents:
            raise ConfigError(f"Command line: {output} contains {source}.", "Give another --output.")
    if output.exists() and (is_folder or not request.overwrite or output.is_dir()):
        remedy = "Remove it first, or give another --output." if is_folder or output.is_dir() else "Add --overwrite."
        raise ConfigError(f"Command line: {output} already exists.", remedy)
    return output


def _described(path: Path, file: LoraFile) -> str:
    ranks = sorted({layer.rank for layer in file.layers.values()})
    precision = next((name for name, dtype in PRECISIONS.items() if dtype == file.dtype), str(file.dtype))
    names = [*file.layers, *file.whole]
    text = sum(name.startswith(file.names.text_encoders) for name in names)
    encoders = f", {text} of them in the text encoders" if text else ""
    rank = "" if not ranks else f", rank {ranks[0]}" if len(ranks) == 1 else f", ranks {ranks[0]} to {ranks[-1]}"
    kinds = "" if file.kinds == ("LoRA",) else f" ({', '.join(file.kinds)})"
    return f"{path.name}{kinds}: names of {file.spelling}, {len(names)} layers{encoders}{rank}, {precision}"


def _left_out(path: Path, file: LoraFile) -> list[str]:
    if not file.left_out:
        return []
    names = f"{len(file.left_out)} learned vectors, such as {shown(file.left_out[0], 80)}"
    return [f"{path.name}: {names} are lost. They are not part of the LoRA, and no UI uses them from a LoRA file."]


def _transformer_of(file: LoraFile) -> LoraFile:
    begins = file.names.text_encoders
    return replace(file, layers=_without(begins, file.layers), whole=_without(begins, file.whole))


def _without(begins: tuple[str, ...], changes: Mapping[str, T]) -> dict[str, T]:
    return {name: change for name, change in changes.items() if not name.startswith(begins)}


def _check_families(paths: Sequence[Path], files: Sequence[LoraFile]) -> None:
    """Layers of SD 3 Medium fit SD 3.5 Medium, but mean something else there."""
    known = {
        file.metadata["modelspec.architecture"]: path
        for path, file in zip(paths, files, strict=True)
        if "modelspec.architecture" in file.metadata
    }
    if len(known) > 1:
        (one, path), (other, other_path) = list(known.items())[:2]
        raise ModelError(
            f"{path.name} is for {shown(one, 80)}, {other_path.name} for {shown(other, 80)}.",
            "LoRAs for different models can't be merged.",
        )


def _write(request: Request, files: Sequence[LoraFile], layers: Mapping[str, LayerWeights], output: Path) -> list[str]:
    """Writes the file and reads it back; reports what rounding lost."""
    dtypes = {file.dtype for file in files}
    own = dtypes.pop() if len(dtypes) == 1 else torch.float32
    dtype = PRECISIONS[request.precision] if request.precision else own
    for name, layer in layers.items():
        largest = max(float(layer.down.abs().max()), float(layer.up.abs().max() * max(1, layer.alpha / layer.rank)))
        if largest > torch.finfo(dtype).max:
            raise ModelError(
                f"{name} contains {largest:.1e}, too large for this precision.", "Use --save_precision bf16."
            )
    metadata = _metadata_of(request, files, layers)
    assert request.to is not None, "nothing is baked"
    dropped = write_lora(output, layers, request.to, dtype, metadata, files[0].names.layouts)
    said = [f"Metadata left out because the header would be too large: {shown(name, 80)}" for name in dropped]
    back = read_lora(saved_at(output)).layers
    errors = {name: _error(layer, back.get(name)) for name, layer in layers.items()}
    worst = max(errors, key=lambda name: errors[name])
    if errors[worst] > EXACT:
        said.append(
            f"Rounding changes updates by up to {errors[worst]:.1e} of their length ({worst}). --save_precision float "
            "reduces this."
        )
    else:
        said.append("Exact: every layer's update is unchanged.")
    return said


def _error(layer: LayerWeights, back: LayerWeights | None) -> float:
    meant = layer.delta()
    size = float(meant.norm())
    if back is None:
        return float(size > 0)
    return float((back.delta() - meant).norm()) / size if size else 0.0


def _metadata_of(request: Request, files: Sequence[LoraFile], layers: Mapping[str, LayerWeights]) -> dict[str, str]:
    """One file's metadata; of several, what they agree on, and that they were merged."""
    first = files[0].metadata
    kept = {
        key: value
        for key, value in first.items()
        if key not in OF_THE_OLD_FILE and all(file.metadata.get(key) == value for file in files)
    }
    of_another_kind = any(file.kinds != ("LoRA",) for file in files)
    if of_another_kind:
        kept = {key: value for key, value in kept.items() if key not in OF_THE_OLD_KIND}
    if len(files) > 1:
        triggers = [file.metadata.get("modelspec.trigger_phrase") for file in files]
        kept["modelspec.title"] = " + ".join(path.stem for path in request.loras)
        kept["modelspec.merged_from"] = ", ".join(path.name for path in request.loras)
        if any(triggers):
            kept["modelspec.trigger_phrase"] = ", ".join(dict.fromkeys(trigger for trigger in triggers if trigger))
    if len(files) > 1 or request.rank or of_another_kind:
        ((rank, alpha), _), *_ = Counter((layer.rank, layer.alpha) for layer in layers.values()).most_common(1)
        kept |= {"ss_network_dim": str(rank), "ss_network_alpha": str(alpha)}
    return kept


def _metadata(request: Request, target: str) -> list[str]:
    """Prints metadata, or writes it as JSON.

    Args:
        target: "print", or the file.
    """
    found = {str(path): read_safetensors(path)[1] for path in request.loras}
    if target != "print":
        path = Path(target).expanduser()
        if path.exists() and not request.overwrite:
            raise ConfigError(f"Command line: {path} already exists.", "Add --overwrite.")
        write_text(path, json.dumps(found if len(found) > 1 else next(iter(found.values())), indent=2) + "\n")
        return [f"Saved {path}"]
    lines = []
    for name, metadata in found.items():
        lines.append(f"{name}: {'no metadata' if not metadata else ''}".rstrip())
        lines += [f"  {shown(key, 80)}: {shown(value)}" for key, value in sorted(metadata.items())]
    return lines
