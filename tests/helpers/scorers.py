"""Scorers without weights, networks with random weights, and pictures for both."""

from __future__ import annotations

import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel

from library.errors import DataError
from library.evaluation.scorers.catalogue import ScorerEntry
from library.evaluation.scorers.interface import Identity
from library.evaluation.scorers.pixels import as_tensor

CPU = torch.device("cpu")
SHAPE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def picture(seed: int, size=(40, 32)) -> Image.Image:
    pixels = torch.randint(0, 255, (size[1], size[0], 3), generator=torch.Generator().manual_seed(seed)).byte()
    return Image.fromarray(pixels.numpy())


def random_clip() -> CLIPModel:
    torch.manual_seed(0)
    text = {**SHAPE, "vocab_size": 50, "max_position_embeddings": 8, "bos_token_id": 48, "eos_token_id": 49}
    vision = {**SHAPE, "image_size": 16, "patch_size": 4}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).eval()


class Plain:
    """Implements every interface with plain pixels."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity

    def embed(self, images):
        return torch.stack([as_tensor(image).flatten() for image in images])

    def score(self, images, texts):
        return torch.tensor([float(as_tensor(i).mean()) + len(t) for i, t in zip(images, texts, strict=True)])

    def masks(self, image):
        return torch.stack([as_tensor(image)[channel] > 0 for channel in range(3)])

    def subject(self, image):
        return as_tensor(image)[0] > 0

    def distance(self, one, other):
        return torch.stack([(as_tensor(a) - as_tensor(b)).square().mean() for a, b in zip(one, other, strict=True)])


class Blind(Plain):
    def embed(self, images):
        raise DataError("I see nothing.")


def _entry(kind: type) -> ScorerEntry:
    roles = {"text": "text", "fidelity": "likeness", "layout": "Seg-Cons", "subject": "subject"}
    roles |= {"pair": "LPIPS", "distribution": "KID"}
    return ScorerEntry(
        "plain", "pixels", "0", "", (), roles, lambda identity, folder, device: kind(identity), stands_in_for="all"
    )


PLAIN, BLIND = _entry(Plain), _entry(Blind)
