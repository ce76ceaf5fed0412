"""The methods that the bench compares: what each changes in the settings of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

CHECKPOINTS = (10, 20, 40, 80, 160)
"""Steps of stage 2 after which the student is scored, where an arm names no others."""
FEW = (20, 40, 80, 160)
VECTORS_OFF = ", vectors off"
"""What an arm is called where its students were scored without their vectors, as UIs without our nodes have them."""
OFF = {
    "eta": 0.0,
    "anchor_weight": 0.0,
    "extractor_anchor_weight": 0.0,
    "replay_images": 0,
    "replay_weight": 0.0,
    "student_embeddings": "own",
    "context_vectors": 0,
    "surroundings_weight": 0.0,
}
"""Nothing but the concept loss."""
NO_EMBEDDINGS = {"concept_embeddings": "none", "student_embeddings": "none"}
VECTORS = {"with_embeddings": True}
DREAMBOOTH = {"method": "dreambooth", "learning_rate": 3e-4}
"""A rate of about a twentieth of a LoRA's, as the DreamBooth paper's 5e-6 is of the usual 1e-4."""
PAPER = {**OFF, "eta": 1.0, "v_original": "live", "guidance_against": "null"}
PURE = {
    "eta": 0.5,
    "v_original": "detached",
    "guidance_against": "class",
    "anchor_weight": 1.0,
    "extractor_anchor_weight": 1.0,
    "replay_images": 96,
    "replay_weight": 1.0,
    "student_embeddings": "fresh",
    "context_vectors": 2,
    "surroundings_weight": 3.0,
    "learning_rate": 2e-3,
}
"""The preset's objective; the arms called `pure, ...` change one thing of it."""
INHERITED = {**PURE, "student_embeddings": "own", "context_vectors": 0, "surroundings_weight": 0.0}
"""Without those two, the student's vectors copied from the extractor; the arms `inherited, ...` change one thing."""


@dataclass(frozen=True)
class Arm:
    """One method.

    Attributes:
        settings: by name, laid over `base.toml`.
        extractor: whether stage 1 is trained; without it, embeddings start as the class word's own states.
        captions, pictures: what the user gives: how much the captions tell, and how many reference pictures there are.
        about: what it stands for in the table.
        vectors_off: whether its students are scored without their vectors, too.
        checkpoints: steps of stage 2 after which they are scored; the last is its length.
    """

    settings: dict[str, Any]
    about: str
    extractor: bool = True
    captions: str = "partial"
    pictures: int = 5
    vectors_off: bool = False
    checkpoints: tuple[int, ...] = CHECKPOINTS


def _pure(about: str, **changes: Any) -> Arm:
    return Arm({**PURE, **changes}, about)


def _inherited(about: str, **changes: Any) -> Arm:
    return Arm({**INHERITED, **changes}, about)


def _delta(about: str, **changes: Any) -> Arm:
    return _inherited(about, **{"concept_loss_weight": 0.0, "eta": 1.0, "lambda": 1.0, **changes})


TAUGHT = {
    **PURE,
    "student_embeddings": "none",
    "concept_loss_weight": 0.0,
    "eta": 1.0,
    "lambda": 1.0,
    "replay_eta": 1.0,
    "extractor_replay_weight": 1.0,
    "context_vectors": 0,
    "surroundings_weight": 0.0,
    "learning_rate": 5e-3,
}
"""For UIs that know no vectors: the extractor's guidance teaches the word, on replayed pictures as well."""


ARMS: dict[str, Arm] = {
    # rivals
    "plain LoRA": Arm({"method": "lora"}, "DreamBooth LoRA: the concept loss alone", extractor=False),
    "LoRA + embeddings": Arm(OFF, "the same with vectors per block", extractor=False),
    "prior preservation": Arm(
        {"method": "prior_preservation"},
        "DreamBooth's: flow matching on the pretrained model's own pictures beside it",
        extractor=False,
    ),
    "DOP": Arm({"method": "dop"}, "LoRA + differential output preservation", extractor=False),
    "prior prediction": Arm({"method": "prior_prediction"}, "OneTrainer's, on replayed pictures", extractor=False),
    "L2 anchor": Arm({"method": "l2_anchor"}, "LoRA whose change of the weights is kept short", extractor=False),
    "DCO": Arm({"method": "dco"}, "direct consistency optimisation", extractor=False),
    "EWC": Arm({"method": "ewc", "ewc_fisher_samples": 100}, "LoRA with elastic weight consolidation", extractor=False),
    "DreamBooth": Arm(DREAMBOOTH, "whole weights, prior preservation", extractor=False),
    "DreamBooth, no prior": Arm(
        {**DREAMBOOTH, "prior_loss_weight": 0.0}, "its control: whole weights alone", extractor=False
    ),
    "DreamBooth + EWC": Arm(
        {**DREAMBOOTH, "ewc_lambda": 0.001, "ewc_fisher_samples": 100},
        "the same with elastic weight consolidation",
        extractor=False,
    ),
    "textual inversion": Arm({"method": "textual_inversion"}, "words in front of both CLIPs alone", extractor=False),
    "Mix-of-Show": Arm({"method": "mix_of_show"}, "ED-LoRA: vectors in every block", extractor=False),
    # the same rivals with our vectors in every block: told [V] from the class by more than a word
    "prior preservation + embeddings": Arm({"method": "prior_preservation", **VECTORS}, "", extractor=False),
    "DOP + embeddings": Arm({"method": "dop", **VECTORS}, "", extractor=False),
    "prior prediction + embeddings": Arm({"method": "prior_prediction", **VECTORS}, "", extractor=False),
    "DreamBooth + embeddings": Arm({**DREAMBOOTH, **VECTORS}, "", extractor=False),
    # the paper and its authors
    "paper": Arm(PAPER, "PureCC as published"),
    "paper, L_CC": Arm(OFF, "its ablation: stage 1 and its vectors, then the concept loss alone"),
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
    "lean": Arm(
        {**PURE, "eta": 0.0}, "control: `pure` without stage 1 and without L_PureCC", extractor=False
    ),
    "lean, no context": Arm({**PURE, "eta": 0.0, "context_vectors": 0}, "", extractor=False),
    "lean, surroundings 1": Arm({**PURE, "eta": 0.0, "surroundings_weight": 1.0}, "", extractor=False),
    "lean, no surroundings": Arm({**PURE, "eta": 0.0, "surroundings_weight": 0.0}, "", extractor=False),
    "pure": Arm(
        PURE,
        "the preset: lambda*, eta 0.5, anchor, replay, clean extractor, R against the class, context, surroundings",
    ),
    "pure, lambda 0": _pure("control: an L2 tie to the base prediction", **{"lambda": 0.0}),
    "earlier pure": _pure("as it was before context and surroundings", context_vectors=0, surroundings_weight=0.0),
    "earlier pure, lambda 1": _pure("", context_vectors=0, surroundings_weight=0.0, **{"lambda": 1.0}),
    "earlier lean": Arm(
        {**PURE, "eta": 0.0, "context_vectors": 0, "surroundings_weight": 0.0}, "the same of `lean`", extractor=False
    ),
    "pure, eta 2": _pure("", eta=2.0),
    "pure, no context": _pure("the preset without context vectors", context_vectors=0),
    "pure, no surroundings": _pure("the preset without the tie outside of the class", surroundings_weight=0.0),
    "plain LoRA + context": Arm(
        {**OFF, **NO_EMBEDDINGS, "context_vectors": 2}, "a plain LoRA with our context vectors", extractor=False
    ),
    "pure, lambda 1": _pure("", **{"lambda": 1.0}),
    "inherited": _inherited("`pure` with the extractor's vectors to start from"),
    "inherited, eta 0": _inherited("control: all of it but L_PureCC; vectors from the same extractor", eta=0.0),
    "inherited, lambda 0": _inherited("control: an L2 tie to the base prediction", **{"lambda": 0.0}),
    # one thing at a time
    "inherited, eta 1": _inherited("", eta=1.0),
    "inherited, eta 2": _inherited("", eta=2.0),
    "inherited, lambda 1": _inherited("", **{"lambda": 1.0}),
    "inherited, lambda >= 0": _inherited("", lambda_min=0.0),
    "inherited, live base": _inherited("", v_original="live"),
    "inherited, frozen base": _inherited("", v_original="frozen"),
    "inherited, against null": _inherited("", guidance_against="null"),
    "inherited, plain extractor": _inherited("", extractor_anchor_weight=0.0),
    "inherited, no anchor": _inherited("", anchor_weight=0.0),
    "inherited, anchor 3": _inherited("", anchor_weight=3.0),
    "inherited, no replay": _inherited("", replay_images=0, replay_weight=0.0),
    "inherited, replay 3": _inherited("", replay_weight=3.0),
    "inherited, 24 replayed": _inherited("", replay_images=24),
    "inherited, shared vector": _inherited("", concept_embeddings="shared"),
    "inherited, no vectors": _inherited("", **NO_EMBEDDINGS),
    "inherited, frozen vectors": _inherited("", student_embeddings="shared"),
    "inherited, word alone": _inherited("the student has no vectors: stock UIs", student_embeddings="none"),
    "inherited, short stage 1": _inherited("", extractor_train_steps=75),
    "inherited, long stage 1": _inherited("", extractor_train_steps=300),
    "delta": _delta("delta distillation: no L_CC, lambda 1, so that the guidance alone teaches"),
    "delta, focus 0.3": _delta("", guidance_focus=0.3),
    "delta, replayed": _delta("on replayed pictures as well", extractor_replay_weight=1.0, replay_eta=1.0),
    "delta, replayed, focus 0.3": _delta(
        "", extractor_replay_weight=1.0, replay_eta=1.0, guidance_focus=0.3
    ),
    "delta, replayed, focus 0.3, L_CC 0.25": _delta(
        "", extractor_replay_weight=1.0, replay_eta=1.0, guidance_focus=0.3, concept_loss_weight=0.25
    ),
    "inherited, focus 0.3": _inherited("R kept where it is strongest", guidance_focus=0.3),
    "inherited, focus 0.3, eta 2": _inherited("", guidance_focus=0.3, eta=2.0),
    "inherited, all replay, lambda 1, focus 0.3": _inherited(
        "", extractor_replay_weight=1.0, replay_eta=1.0, guidance_focus=0.3, **{"lambda": 1.0}
    ),
    "inherited, extractor replay": _inherited("stage 1 tied on replayed pictures as well", extractor_replay_weight=1.0),
    "inherited, replayed guidance": _inherited("L_PureCC on replayed pictures, too", replay_eta=1.0),
    "inherited, replayed guidance, lambda 1": _inherited("", replay_eta=1.0, **{"lambda": 1.0}),
    "inherited, all replay": _inherited("both of these", extractor_replay_weight=1.0, replay_eta=1.0),
    "inherited, all replay, lambda 1": _inherited("", extractor_replay_weight=1.0, replay_eta=1.0, **{"lambda": 1.0}),
    "inherited, poor captions": Arm(INHERITED, "captions name the class alone", captions="poor"),
    "inherited, full captions": Arm(INHERITED, "captions name all that is not the concept", captions="full"),
    "plain LoRA, full captions": Arm({**OFF, **NO_EMBEDDINGS}, "", extractor=False, captions="full"),
    "inherited, 2 pictures": Arm(INHERITED, "", pictures=2),
    "inherited, 1 picture": Arm(INHERITED, "", pictures=1),
    # for UIs that know no vectors
    "stock": Arm(TAUGHT, "presets/stock.toml: the plain LoRA and the word alone, from here on", checkpoints=FEW),
    "stock, L_CC 0.25": Arm({**TAUGHT, "concept_loss_weight": 0.25}, "", checkpoints=FEW),
    "stock, focus 0.3": Arm({**TAUGHT, "guidance_focus": 0.3}, "", checkpoints=FEW),
    "stock, L_CC alone": Arm(
        {**PURE, "eta": 0.0, "student_embeddings": "none"}, "no guidance", extractor=False, checkpoints=FEW
    ),
    "stock, L_CC alone, anchor 0": Arm(
        {**PURE, "eta": 0.0, "student_embeddings": "none", "anchor_weight": 0.0}, "", extractor=False, checkpoints=FEW
    ),
    "lean, dropout 0.5": Arm(
        {**PURE, "eta": 0.0, "embedding_dropout": 0.5}, "half of the pictures without vectors", extractor=False,
        vectors_off=True, checkpoints=FEW,
    ),
    "taught, dropout 0.5": Arm(
        {**TAUGHT, "student_embeddings": "fresh", "embedding_dropout": 0.5}, "the same, taught", vectors_off=True,
        checkpoints=FEW,
    ),
    "lean, first block": Arm(
        {**PURE, "eta": 0.0, "concept_embeddings": "first_block"}, "the most that a textual inversion could do",
        extractor=False, checkpoints=FEW,
    ),
}  # fmt: skip

STAGE_1 = (
    "extractor_anchor_weight",
    "extractor_replay_weight",
    "extractor_train_steps",
    "concept_embeddings",
    "embedding_positions",
    "context_vectors",
)
"""Settings that shape the extractor; arms that agree in them share one."""
