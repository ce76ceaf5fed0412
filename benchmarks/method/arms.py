"""The methods that the bench compares: what each changes in the settings of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from library.config.family_settings import attention_layers
from tools.pocket.pen import SIDE

CHECKPOINTS = (10, 20, 40, 80, 160)
"""Steps of stage 2 after which the student is scored, where an arm names no others."""
LONGER = (80, 160, 320, 480)
"""Of ours: the word learns after the vectors."""
FEW = (20, 40, 80, 160)
WITH_VECTORS, AS_FILE = "with_vectors", "as_file"
BESIDE = {WITH_VECTORS: ", with vectors", AS_FILE: ", in a plain loader"}
"""Other ways to draw an arm's students, which are scored as well, and what the arm is called there: with their vectors,
where they are drawn by the word alone; and as UIs apply the file of a LoRA that acts in parts."""
RANK_4 = {"network_dim": 4, "network_alpha": 4.0}
RANK_16 = {"network_dim": 16, "network_alpha": 16.0}
ALL_ATTENTION = {"target_modules": attention_layers()}
OFF = {
    "eta": 0.0,
    "anchor_weight": 0.0,
    "extractor_anchor_weight": 0.0,
    "replay_images": 0,
    "replay_weight": 0.0,
    "student_embeddings": "own",
    "context_vectors": 0,
    "surroundings_weight": 0.0,
    "word_weight": 0.0,
    "ties": "all",
    **RANK_4,
    **ALL_ATTENTION,
}
"""Nothing but the concept loss, and the paper's rank and layers."""
NO_EMBEDDINGS = {"concept_embeddings": "none", "student_embeddings": "none"}
VECTORS = {"with_embeddings": True}
DREAMBOOTH = {"method": "dreambooth", "learning_rate": 3e-4}
"""A rate of about a twentieth of a LoRA's, as the DreamBooth paper's 5e-6 is of the usual 1e-4."""
T_LORA = {"method": "t_lora", **RANK_16}
"""At rank 4, two ranks would come and go."""
PAPER = {**OFF, "eta": 1.0, "v_original": "live", "guidance_against": "null"}
PURE = {
    "eta": 0.5,
    "v_original": "detached",
    "guidance_against": "class",
    "anchor_weight": 6.0,
    "extractor_anchor_weight": 1.0,
    "extractor_train_steps": 80,
    "replay_images": 48,
    "replay_weight": 5.0,
    "student_embeddings": "fresh",
    "context_vectors": 2,
    "surroundings_weight": 2.0,
    "word_weight": 1.0,
    "word_states_weight": 0.3,
    "ties": "turns",
    "learning_rate": 4e-3,
    **RANK_16,
}
"""The objective of presets/pure.toml; the arms called `pure, ...` change one thing of it."""
LEAN = {**PURE, "eta": 0.0}
"""The default, presets/lean.toml: no L_PureCC, so no stage 1; the arms called `lean, ...` change one thing of it."""
DELTA = {"concept_loss_weight": 0.0, "eta": 1.0, "lambda": 1.0}


@dataclass(frozen=True)
class Arm:
    """One method.

    Attributes:
        settings: by name, laid over `base.toml`.
        extractor: whether stage 1 is trained; without it, embeddings start as the class word's own states.
        captions, pictures: what the user gives: how much the captions tell, and how many reference pictures there are.
        about: what it stands for in the table.
        beside: in which other ways its students are drawn and scored, of `BESIDE`.
        checkpoints: steps of stage 2 after which they are scored; the last is its length.
    """

    settings: dict[str, Any]
    about: str
    extractor: bool = True
    captions: str = "partial"
    pictures: int = 5
    beside: tuple[str, ...] = ()
    checkpoints: tuple[int, ...] = CHECKPOINTS


def _pure(about: str, **changes: Any) -> Arm:
    return Arm({**PURE, **changes}, about, checkpoints=LONGER)


def _lean(
    about: str,
    captions: str = "partial",
    pictures: int = 5,
    beside: tuple[str, ...] = (),
    checkpoints: tuple[int, ...] = LONGER,
    **changes: Any,
) -> Arm:
    return Arm({**LEAN, **changes}, about, False, captions, pictures, beside, checkpoints)


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
    "DCO": Arm({"method": "dco", "dco_beta": 10.0}, "direct consistency optimisation", extractor=False),
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
    "T-LoRA": Arm(T_LORA, "fewer ranks act at higher noise", extractor=False, beside=(AS_FILE,)),
    "token-masked LoRA": Arm(
        {"method": "token_lora"}, "on the trigger's tokens alone", extractor=False, beside=(AS_FILE,)
    ),
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
    "pure": Arm(
        PURE,
        "lambda*, eta 0.5, anchor, replay, clean extractor, R against the class, context, surroundings, all in turns, "
        "and the word",
        beside=(WITH_VECTORS,),
        checkpoints=LONGER,
    ),
    "lean": _lean("the default: `pure` without stage 1 and without L_PureCC", beside=(WITH_VECTORS,)),
    "pure, lambda 0": _pure("control: an L2 tie to the base prediction", **{"lambda": 0.0}),
    "pure, lambda 1": _pure("a fixed lambda", **{"lambda": 1.0}),
    "pure, eta 2": _pure("", eta=2.0),
    "pure, eta 4": _pure("", eta=4.0),
    # one thing at a time: the pure term
    "pure, live base": _pure("", v_original="live"),
    "pure, frozen base": _pure("", v_original="frozen"),
    "pure, against null": _pure("", guidance_against="null"),
    "pure, plain extractor": _pure("", extractor_anchor_weight=0.0),
    "pure, extractor replay": _pure("stage 1 tied on replayed pictures as well", extractor_replay_weight=1.0),
    "pure, delta": _pure("delta distillation: the guidance alone teaches", **DELTA),
    "pure, delta, replayed": _pure("", **DELTA, extractor_replay_weight=1.0),
    "pure, merged": Arm({**PURE, "merged": True}, "both stages in one", extractor=False),
    "pure, short stage 1": _pure("", extractor_train_steps=40),
    "pure, long stage 1": _pure("", extractor_train_steps=160),
    # one thing at a time: vectors
    "pure, own vectors": _pure("the student's vectors start as the extractor's", student_embeddings="own"),
    "pure, frozen vectors": _pure("the student uses the extractor's", student_embeddings="shared"),
    "lean, shared vector": _lean("", concept_embeddings="shared"),
    "lean, no vectors": _lean("", **NO_EMBEDDINGS),
    "lean, slow vectors": _lean("", embedding_lr=2e-3),
    "lean, slow LoRA": _lean("", learning_rate=2e-3),
    # one thing at a time: ties
    "pure, all ties": _pure("every loss in every step", ties="all"),
    "lean, all ties": _lean("", ties="all"),
    "lean, rank 4": _lean("", **RANK_4),
    "lean, rank 32": _lean("", network_dim=32, network_alpha=32.0),
    "lean, all attention": _lean("the layers of a plain LoRA instead of the text stream's", **ALL_ATTENTION),
    "lean, word 3": _lean("", word_weight=3.0),
    "lean, anchor 3": _lean("", anchor_weight=3.0),
    "lean, vectors alone": _lean("no tie for the word: the vectors carry the concept", word_weight=0.0),
    "lean, word by predictions": _lean("its states are not compared", word_weight=3.0, word_states_weight=0.0),
    "lean, no context": _lean("", context_vectors=0),
    "lean, surroundings 3": _lean("", surroundings_weight=3.0),
    "lean, no surroundings": _lean("", surroundings_weight=0.0),
    "lean, neither": _lean("neither context nor surroundings", context_vectors=0, surroundings_weight=0.0),
    "lean, no anchor": _lean("", anchor_weight=0.0),
    "lean, anchor 2, replay 3": _lean("", anchor_weight=2.0, replay_weight=3.0),
    "lean, no replay": _lean("no surroundings either", replay_images=0, replay_weight=0.0),
    "lean, replay 1": _lean("", replay_weight=1.0),
    "lean, 96 replayed": _lean("", replay_images=96),
    "lean, 24 replayed": _lean("", replay_images=24),
    "lean, replayed smaller": _lean("replayed pictures of three quarters of the side", replay_resolution=SIDE * 3 // 4),
    "plain LoRA + context": Arm(
        {**OFF, **NO_EMBEDDINGS, "context_vectors": 2}, "a plain LoRA with our context vectors", extractor=False
    ),
    "plain LoRA, slow": Arm({"method": "lora", "learning_rate": 4e-3}, "at the rate of `pure`", extractor=False),
    # what the user gives
    "lean, poor captions": _lean("captions name the class alone", captions="poor"),
    "lean, full captions": _lean("captions name all that is not the concept", captions="full"),
    "plain LoRA, full captions": Arm({**OFF, **NO_EMBEDDINGS}, "", extractor=False, captions="full"),
    "lean, 2 pictures": _lean("", pictures=2),
    "lean, 1 picture": _lean("", pictures=1),
    "T-LoRA, 1 picture": Arm(T_LORA, "what it was made for", extractor=False, pictures=1, beside=(AS_FILE,)),
    "plain LoRA, 1 picture": Arm({"method": "lora"}, "", extractor=False, pictures=1),
    "lean, first block": _lean(
        "the most that a textual inversion could do", concept_embeddings="first_block", word_weight=0.0, checkpoints=FEW
    ),
}  # fmt: skip

STAGE_1 = (
    "extractor_anchor_weight",
    "extractor_replay_weight",
    "extractor_train_steps",
    "ties",
    "network_dim",
    "network_alpha",
    "target_modules",
    "learning_rate",
    "concept_embeddings",
    "embedding_positions",
    "context_vectors",
)
"""Settings that shape the extractor; arms that agree in them share one."""

ABLATIONS = frozenset(name for name in ARMS if name.startswith(("pure, ", "lean, ", "plain LoRA, ", "T-LoRA, ")))
"""The arms that change one thing of another."""
