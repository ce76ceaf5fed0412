"""SAM 2 asked everywhere: the regions of a picture, from a grid of points. Two backends: PyTorch and ONNX."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from library.evaluation.measures.segmentation import pairwise_iou
from library.evaluation.scorers.interface import Identity
from library.evaluation.scorers.pixels import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from library.models.loading.pretrained import load_pretrained
from library.transfer import moved

SIDE = 1024
"""Side of SAM 2's input."""
GRID_ON_GPU, GRID_ON_CPU = 32, 8
"""Points along each side of the picture."""
POINTS_AT_ONCE = 64
LEAST_QUALITY, LEAST_STABILITY, LEAST_AREA, SAME = 0.8, 0.85, 0.003, 0.7
"""A mask is kept whose predicted IoU, stability and share of the picture are above these; IoU of two that are one."""
STABILITY_OFFSET = 1.0
"""A mask is stable that hardly changes when the threshold of its logits moves by this, up or down."""
INPUT = Preprocess(SIDE, SIDE, IMAGENET_MEAN, IMAGENET_STD, Image.Resampling.BILINEAR, squash=True)


class GridMasks:
    """Regions by asking a promptable segmenter at each point of a grid.

    Args:
        look: a picture's input, (1, 3, 1024, 1024), to whatever the decoder needs of it.
        ask: that and points in 0 .. 1024, (P, 2), to logits (P, 3, 256, 256) and predicted IoUs (P, 3).
    """

    def __init__(
        self,
        identity: Identity,
        look: Callable[[Tensor], Any],
        ask: Callable[[Any, Tensor], tuple[Tensor, Tensor]],
        grid: int,
    ) -> None:
        self.identity = identity
        self._look = look
        self._ask = ask
        self.grid = grid

    @torch.no_grad()
    def masks(self, image: Image.Image) -> Tensor:
        """(K, 256, 256) bool, best first, none twice; all pictures are squashed to a square."""
        seen = self._look(INPUT(image)[None])
        places = (torch.arange(self.grid) + 0.5) / self.grid * SIDE
        points = torch.cartesian_prod(places, places).flip(1)
        kept, quality = [], []
        for some in points.split(POINTS_AT_ONCE):
            logits, ious = (tensor.flatten(0, 1).float().cpu() for tensor in self._ask(seen, some))
            wide, narrow = (logits > -STABILITY_OFFSET).flatten(1).sum(1), (logits > STABILITY_OFFSET).flatten(1).sum(1)
            masks = logits > 0
            good = (ious > LEAST_QUALITY) & (narrow > LEAST_STABILITY * wide)
            good &= masks.flatten(1).float().mean(1) > LEAST_AREA
            kept.append(masks[good])
            quality.append(ious[good])
        return without_doubles(torch.cat(kept), torch.cat(quality))


def without_doubles(masks: Tensor, quality: Tensor) -> Tensor:
    """Masks (K, H, W), best first, each of which overlaps no better one by more than `SAME`."""
    masks = masks[quality.argsort(descending=True, stable=True)]
    left, found = torch.arange(len(masks)), []
    while len(left):
        best, left = left[0], left[1:]
        found.append(int(best))
        if len(left):
            left = left[pairwise_iou(masks[best][None], masks[left])[0] <= SAME]
    return masks[found]


def load_sam2(identity: Identity, folder: Path, device: torch.device) -> GridMasks:
    """From a folder in the format of `transformers`."""
    from transformers import Sam2Model

    model = moved(load_pretrained(Sam2Model, folder), device)

    def look(pixels: Tensor) -> list[Tensor]:
        return model.get_image_embeddings(pixels.to(device))

    def ask(seen: list[Tensor], points: Tensor) -> tuple[Tensor, Tensor]:
        where = points[None, :, None].to(device)  # one picture, P questions, one point each
        labels = torch.ones(where.shape[:3], dtype=torch.long, device=device)
        said = model(image_embeddings=list(seen), input_points=where, input_labels=labels, multimask_output=True)
        return said.pred_masks[0], said.iou_scores[0]

    return GridMasks(identity, look, ask, GRID_ON_CPU if device.type == "cpu" else GRID_ON_GPU)


def load_sam2_onnx(identity: Identity, folder: Path, device: torch.device) -> GridMasks:
    """From an encoder and a decoder in ONNX, on the CPU."""
    from library.evaluation.scorers.onnx import session

    encoder, decoder = session(folder / "encoder.ort"), session(folder / "decoder.onnx")

    def look(pixels: Tensor) -> dict[str, np.ndarray]:
        names = [output.name for output in encoder.get_outputs()]
        return dict(zip(names, encoder.run(names, {"image": pixels.numpy()}), strict=True))

    def ask(seen: dict[str, np.ndarray], points: Tensor) -> tuple[Tensor, Tensor]:
        count = len(points)
        given = {
            **seen,
            "point_coords": points[:, None].numpy().astype(np.float32),
            "point_labels": np.ones((count, 1), np.float32),
            "mask_input": np.zeros((count, 1, 256, 256), np.float32),
            "has_mask_input": np.zeros(1, np.float32),
        }
        masks, ious = decoder.run(["masks", "iou_predictions"], given)
        return torch.from_numpy(masks), torch.from_numpy(ious)

    return GridMasks(identity, look, ask, GRID_ON_CPU)
