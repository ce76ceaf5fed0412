"""The pocket world's judge as a scorer for the evaluation: exact where real scorers guess."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL.Image import Image
from torch import Tensor

from library.errors import DataError
from library.evaluation.measures.segmentation import masks_of
from library.evaluation.scorers.catalogue import ScorerEntry
from library.evaluation.scorers.interface import Identity
from library.evaluation.scorers.pixels import as_tensor
from tools.pocket.pen import REGIONS, SIDE
from tools.pocket.scorer import Look, Scorer, load_scorer
from tools.pocket.world import ATTRIBUTES

JUDGE = Path(__file__).parent.parent.parent / "pocket"
FILE = "judge.safetensors"


class Judge:
    """Image encoder, text-image scorer and mask generator in one.

    `score` is the mean probability, x 100, that the judge gives to what the text asks for. It knows the world's words.
    """

    def __init__(self, identity: Identity, scorer: Scorer) -> None:
        self.identity, self._scorer = identity, scorer

    def embed(self, images: Sequence[Image]) -> Tensor:
        """(N, 256)."""
        return self._look(images).features

    def score(self, images: Sequence[Image], texts: Sequence[str]) -> Tensor:
        """(N,), 0 to 100."""
        look = self._look(images)
        scores = []
        for row, text in enumerate(texts):
            wanted = asked_in(text)
            if not wanted:
                raise DataError(f'The judge of the pocket world finds nothing in "{text}" that it knows.')
            scores.append(sum(float(look.probability(*one)[row]) for one in wanted.items()) / len(wanted))
        return 100 * torch.tensor(scores)

    def masks(self, image: Image) -> Tensor:
        """Sky, scenery, ground and object, (4, side, side) bool."""
        return masks_of(self._look([image]).regions[0], len(REGIONS))

    def subject(self, image: Image) -> Tensor:
        """(side, side) bool."""
        return self.masks(image)[REGIONS.index("object")]

    def _look(self, images: Sequence[Image]) -> Look:
        wrong = next((image.size for image in images if image.size != (SIDE, SIDE)), None)
        if wrong:
            raise DataError(f"The judge of the pocket world reads {SIDE} x {SIDE} pixels, not {wrong[0]} x {wrong[1]}.")
        return self._scorer.look(torch.stack([as_tensor(image) for image in images]))


def asked_in(text: str) -> dict[str, str]:
    """What a text asks for, by the names of `ATTRIBUTES`."""
    words = text.lower().replace(",", " ").split()
    return {name: word for name, options in ATTRIBUTES.items() for word in options if word in words}


def _load(identity: Identity, folder: Path, device: torch.device) -> Judge:
    return Judge(identity, load_scorer(folder / FILE))


POCKET = ScorerEntry(
    "pocket",
    "pocket/judge.safetensors",
    "2 MB",
    "Apache-2.0",
    (FILE,),
    {
        "text": "prompt following",
        "fidelity": "likeness",
        "layout": "Seg-Cons",
        "subject": "subject",
    },
    _load,
    folder=str(JUDGE),
)
"""Its folder is absolute, so any --weights_dir will do."""
