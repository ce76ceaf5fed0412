"""How exact guidance and lambda* are with few bits: python -m benchmarks.numerics --config_file FILE --eta 0.5

It trains a run in float32. Then the same extractor and student predict the same noisy pictures, with the frozen weights
and all activations in other precisions. It does so on the settings' trained model, and on a larger model with random
weights. FILE may be presets/demo.toml.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.record import add_json_to, read, table, write
from library.config.dataset_file import read_concepts_and_pictures
from library.config.files import add_settings_to, command_line_parser, config_file_of, read_settings, settings_given
from library.environment import prepare_process
from library.errors import ConfigError, exit_code_of

if TYPE_CHECKING:
    from torch import Tensor

    from library.config.settings import Settings
    from library.training.run import Run

PRECISIONS = {
    "float32": {},
    "bf16": {"mixed_precision": "bf16"},
    "fp16": {"mixed_precision": "fp16"},
    "int8 weights": {"base_quantization": "int8"},
    "fp8 weights": {"base_quantization": "fp8"},
    "nf4 weights": {"base_quantization": "nf4"},
    "int8 weights, bf16": {"base_quantization": "int8", "mixed_precision": "bf16"},
    "nf4 weights, bf16": {"base_quantization": "nf4", "mixed_precision": "bf16"},
}
"""Settings of [model] by name; the others are compared with the first."""
RANDOM = {"num_layers": 12, "num_attention_heads": 6, "attention_head_dim": 64, "caption_projection_dim": 384}
RANDOM_STEPS = 20
"""Steps of each stage on the random model: enough for the adapters to have an effect."""
COLUMNS = {
    "model": "model",
    "precision": "precision",
    "size": "size of R against v, %",
    "v_error": "error of v, %",
    "r_error": "error of R, %",
    "shrink": "R's part in what is found",
    "lambda_error": "error of lambda*, %",
}
PERCENT = ("size", "v_error", "r_error", "lambda_error")


def random_model(like: Path, folder: Path) -> Path:
    """A model like another one, but with a transformer of random weights, 12 blocks of 384."""
    import torch
    from diffusers import SD3Transformer2DModel

    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(like, folder, ignore=shutil.ignore_patterns("transformer"))
    config = {**SD3Transformer2DModel.load_config(like / "transformer"), **RANDOM}
    config["dual_attention_layers"] = tuple(range(RANDOM["num_layers"] // 2))
    torch.manual_seed(0)
    transformer = SD3Transformer2DModel.from_config(config)
    for weight in transformer.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
    transformer.save_pretrained(folder / "transformer")
    return folder


def trained(settings: Settings, config: Any) -> Run:
    """Trains a whole run in float32."""
    from library.preflight.plan import make_plan
    from library.training.run import Run

    run = Run(make_plan(settings, config))
    run.prepare()
    run.build_extractor()
    run.train_extractor()
    run.build_student()
    stage = run.student_stage()
    while stage.done < stage.steps:
        stage.step()
    return run


def in_precision(base: Run, config: Any, model: dict[str, Any]) -> Run:
    """The same extractor and student on the same model in another precision."""
    from library.parts.learned import student_of
    from library.parts.parts import STUDENT_ADAPTER
    from library.preflight.plan import make_plan
    from library.training.run import Run

    extractor = str(base.folder / f"{base.settings.saving.output_name}_extractor.safetensors")
    settings = replace(
        base.settings,
        model=replace(base.settings.model, **model),
        pure_learning=replace(base.settings.pure_learning, extractor=extractor),
    )
    run = Run(make_plan(settings, config))
    run.prepare()
    run.build_extractor()
    run.parts.network.load(STUDENT_ADAPTER, base.parts.network.weights(STUDENT_ADAPTER), "the run in float32")
    run.student = student_of(run.parts, run.extractor, run.parts.copied(base.student.vectors))
    return run


def predictions(run: Run, batches: int) -> tuple[Tensor, Tensor, Tensor]:
    """v of the complete prompt and R, (N, C, H, W), and lambda*, (N,), of the first batches; float32 on the CPU."""
    import torch

    from library.objectives import PureTerm

    stage = run.student_stage()
    term = next(term for name, _, term in stage.objective.terms if name == "pure" and isinstance(term, PureTerm))
    found = []
    for number in range(batches):
        with torch.no_grad():
            v = stage.branches.predict(stage.scenes.reference(number), stage.scenes.replay(number))
            r_tar = term.guidance(v)
            lam = term.scale(v[term.complete], v[term.original], r_tar).flatten()
        found.append((v[term.complete].cpu(), r_tar.cpu(), lam.cpu()))
    v, r_tar, lam = (torch.cat(parts) for parts in zip(*found, strict=True))
    return v, r_tar, lam


def errors(found: tuple[Tensor, ...], exact: tuple[Tensor, ...]) -> dict[str, float]:
    """Errors against the exact predictions: medians over the pictures, each relative to its size."""
    (v, r_tar, lam), (v_exact, r_exact, lam_exact) = found, exact

    def length(x: Tensor) -> Tensor:
        return x.flatten(1).norm(dim=1)

    part = (r_tar * r_exact).flatten(1).sum(1) / length(r_tar).square()
    return {
        "size": float((length(r_exact) / length(v_exact)).median()),
        "v_error": float((length(v - v_exact) / length(v_exact)).median()),
        "r_error": float((length(r_tar - r_exact) / length(r_exact)).median()),
        "shrink": float(part.median()),
        "lambda_error": float(((lam - lam_exact).abs() / lam_exact.abs()).median()),
    }


def main() -> None:
    """Measures both models in all precisions."""
    parser = command_line_parser("How exact guidance and lambda* are in few bits.")
    parser.add_argument("--batches", type=int, default=40, metavar="N", help="Batches predicted. Default: 40.")
    add_json_to(parser, "numerics.json in output_dir")
    add_settings_to(parser)
    arguments = parser.parse_args()
    file, words = config_file_of(arguments), settings_given(arguments)
    given = {"output_dir": "output/benchmark", "log_with": "none", **words, "mixed_precision": "no", "overwrite": True}
    first = read_settings(file, given)
    if first.pure_learning.eta == 0:
        raise ConfigError("eta is 0, so there is no guidance to measure.", "Add --eta 0.5.")
    folder, like = first.output_dir, Path(first.model.pretrained_model_name_or_path)
    short = {"extractor_train_steps": RANDOM_STEPS, "max_train_steps": RANDOM_STEPS, "output_name": "random"}
    other = {**given, **short, "pretrained_model_name_or_path": str(folder / "random_model")}
    rows = []

    for name, settings in (("trained", first), ("random, 12 blocks of 384", read_settings(file, other))):
        if settings is not first:
            random_model(like, folder / "random_model")
        config = read_concepts_and_pictures(file, settings)
        base, exact = trained(settings, config), None
        for precision, model in PRECISIONS.items():
            found = predictions(in_precision(base, config, model), arguments.batches)
            exact = exact or found
            part = errors(found, exact)
            rows.append({"model": name, "precision": precision, **part, **{one: 100 * part[one] for one in PERCENT}})
    shutil.rmtree(folder / "random_model")
    title = "Errors of guidance and lambda* against float32, medians over pictures"
    path, command = arguments.json or folder / "numerics.json", ["python", "-m", "benchmarks.numerics", *sys.argv[1:]]
    write(path, title, "measured", rows, COLUMNS, command, dict.fromkeys(PERCENT, ".2g"))
    print(table(read(path)))


if __name__ == "__main__":
    prepare_process()
    sys.exit(exit_code_of(main, lambda: None))
