"""The methods that the bench compares: what each changes in the settings of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

OFF = {"eta": 0.0, "anchor_weight": 0.0, "extractor_anchor_weight": 0.0, "replay_images": 0, "replay_weight": 0.0}
"""Nothing but the concept loss."""
NO_EMBEDDINGS = {"concept_embeddings": "none", "student_embeddings": "none"}
PAPER = {**OFF, "eta": 1.0, "v_original": "live", "guidance_against": "null"}
PURE = {
    "eta": 0.5,
    "v_original": "detached",
    "guidance_against": "class",
    "anchor_weight": 1.0,
    "extractor_anchor_weight": 1.0,
    "replay_images": 96,
    "replay_weight": 1.0,
}
"""What the study before this bench found best; the arms called `pure ...` change one thing of it."""


@dataclass(frozen=True)
class Arm:
    """One method.

    Attributes:
        settings: by name, laid over `base.toml`.
        extractor: whether stage 1 is trained; without it, embeddings start as the class word's own states.
        captions, pictures: what the user gives: how much the captions tell, and how many reference pictures there are.
        about: what it stands for in the table.
    """

    settings: dict[str, Any]
    about: str
    extractor: bool = True
    captions: str = "partial"
    pictures: int = 5
    tags: frozenset[str] = field(default_factory=frozenset)


def _pure(about: str, **changes: Any) -> Arm:
    return Arm({**PURE, **changes}, about)


def _delta(about: str, **changes: Any) -> Arm:
    return _pure(about, **{"concept_loss_weight": 0.0, "eta": 1.0, "lambda": 1.0, **changes})


ARMS: dict[str, Arm] = {
    # rivals
    "plain LoRA": Arm({**OFF, **NO_EMBEDDINGS}, "DreamBooth LoRA: the concept loss alone", extractor=False),
    "LoRA + embeddings": Arm(OFF, "the same with vectors per block", extractor=False),
    "prior preservation": Arm(
        {**OFF, **NO_EMBEDDINGS, "prior_loss_weight": 1.0, "replay_images": 96},
        "DreamBooth's: flow matching on the pretrained model's own pictures beside it",
        extractor=False,
    ),
    "DOP": Arm(
        {**OFF, **NO_EMBEDDINGS, "anchor_weight": 1.0}, "LoRA + differential output preservation", extractor=False
    ),
    # the paper and its authors
    "paper": Arm(PAPER, "PureCC as published"),
    "paper, merged": Arm({**PAPER, "merged": True}, "its ablation: both stages in one", extractor=False),
    "paper + anchor + replay": Arm(
        {**PAPER, "anchor_weight": 1.0, "replay_images": 96, "replay_weight": 1.0}, "the paper's R, with our two ties"
    ),
    "release": Arm(
        {
            **PAPER,
            "eta": 2.0,
            "lambda": 1.0,
            "guidance_lora": False,
            "concept_embeddings": "first_block",
            "embedding_positions": "clip",
            "student_embeddings": "none",
        },
        "what the authors' scripts do",
    ),
    # ours and the controls that decide whether the pure term earns its cost
    "pure": _pure("lambda*, eta 0.5, anchor, replay, clean extractor, R against the class"),
    "pure, eta 0": _pure("control: all of it but L_PureCC; vectors from the same extractor", eta=0.0),
    "pure, lambda 0": _pure("control: L_PureCC without guidance, an L2 tie to the base prediction", **{"lambda": 0.0}),
    "anchor + replay, fresh vectors": Arm(
        {**PURE, "eta": 0.0}, "control: no stage 1 at all, vectors from the class word", extractor=False
    ),
    "pure, fresh vectors": _pure("the student's vectors start from the class word", student_embeddings="fresh"),
    "pure, fresh vectors, eta 2": _pure("", student_embeddings="fresh", eta=2.0),
    "pure, fresh vectors, lambda 1": _pure("", student_embeddings="fresh", **{"lambda": 1.0}),
    # one thing at a time
    "pure, eta 1": _pure("", eta=1.0),
    "pure, eta 2": _pure("", eta=2.0),
    "pure, lambda 1": _pure("", **{"lambda": 1.0}),
    "pure, lambda >= 0": _pure("", lambda_min=0.0),
    "pure, live base": _pure("", v_original="live"),
    "pure, frozen base": _pure("", v_original="frozen"),
    "pure, against null": _pure("", guidance_against="null"),
    "pure, plain extractor": _pure("", extractor_anchor_weight=0.0),
    "pure, no anchor": _pure("", anchor_weight=0.0),
    "pure, anchor 3": _pure("", anchor_weight=3.0),
    "pure, no replay": _pure("", replay_images=0, replay_weight=0.0),
    "pure, replay 3": _pure("", replay_weight=3.0),
    "pure, 24 replayed": _pure("", replay_images=24),
    "pure, shared vector": _pure("", concept_embeddings="shared"),
    "pure, no vectors": _pure("", **NO_EMBEDDINGS),
    "pure, frozen vectors": _pure("", student_embeddings="shared"),
    "pure, word alone": _pure("the student has no vectors: stock UIs", student_embeddings="none"),
    "pure, short stage 1": _pure("", extractor_train_steps=75),
    "pure, long stage 1": _pure("", extractor_train_steps=300),
    "delta": _delta("delta distillation: no L_CC, lambda 1, so that the guidance alone teaches"),
    "delta, focus 0.3": _delta("", guidance_focus=0.3),
    "delta, replayed": _delta("on replayed pictures as well", extractor_replay_weight=1.0, replay_eta=1.0),
    "delta, replayed, focus 0.3": _delta(
        "", extractor_replay_weight=1.0, replay_eta=1.0, guidance_focus=0.3
    ),
    "delta, replayed, focus 0.3, L_CC 0.25": _delta(
        "", extractor_replay_weight=1.0, replay_eta=1.0, guidance_focus=0.3, concept_loss_weight=0.25
    ),
    "pure, focus 0.3": _pure("R kept where it is strongest", guidance_focus=0.3),
    "pure, focus 0.3, eta 2": _pure("", guidance_focus=0.3, eta=2.0),
    "pure, all replay, lambda 1, focus 0.3": _pure(
        "", extractor_replay_weight=1.0, replay_eta=1.0, guidance_focus=0.3, **{"lambda": 1.0}
    ),
    "pure, extractor replay": _pure("stage 1 tied on replayed pictures as well", extractor_replay_weight=1.0),
    "pure, replayed guidance": _pure("L_PureCC on replayed pictures too, [V] in their prompts", replay_eta=1.0),
    "pure, replayed guidance, lambda 1": _pure("", replay_eta=1.0, **{"lambda": 1.0}),
    "pure, all replay": _pure("both of these", extractor_replay_weight=1.0, replay_eta=1.0),
    "pure, all replay, lambda 1": _pure("", extractor_replay_weight=1.0, replay_eta=1.0, **{"lambda": 1.0}),
    "pure, poor captions": Arm(PURE, "captions name the class alone", captions="poor"),
    "pure, full captions": Arm(PURE, "captions name all that is not the concept", captions="full"),
    "plain LoRA, full captions": Arm({**OFF, **NO_EMBEDDINGS}, "", extractor=False, captions="full"),
    "pure, 2 pictures": Arm(PURE, "", pictures=2),
    "pure, 1 picture": Arm(PURE, "", pictures=1),
}  # fmt: skip

STAGE_1 = (
    "extractor_anchor_weight",
    "extractor_replay_weight",
    "extractor_train_steps",
    "concept_embeddings",
    "embedding_positions",
)
"""Settings that shape the extractor; arms that agree in them share one."""
