"""The text encoders, one after the other: none of them is ever on the device together with another part."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from library.models.interface import TextStates
from library.models.model_files import TEXT_ENCODERS, ModelFiles
from library.models.modules import blank
from library.models.weights import PartWeights, fill

TEXT_BATCH = 8
"""Prompts encoded at a time."""


@torch.no_grad()
def encode_texts(
    files: ModelFiles,
    ids: Sequence[Tensor],
    dtype: torch.dtype,
    device: torch.device,
    progress: Callable[[Iterable], Iterable] = iter,
) -> list[TextStates]:
    """What the three encoders make of texts, on the CPU.

    Args:
        ids: for CLIP-L, CLIP-G and T5 the tokens of every text, (texts, tokens).
        progress: wraps the loop over the layers of T5, which takes nearly all of the time.
    """
    t5 = stream_t5(files, ids[2], dtype, device, progress)
    clips = [_clip(files, part, tokens, dtype, device) for part, tokens in zip(TEXT_ENCODERS, ids[:2], strict=False)]
    wide = torch.cat([hidden for hidden, _ in clips], dim=-1)
    wide = nn.functional.pad(wide, (0, t5.shape[-1] - wide.shape[-1]))
    pooled = torch.cat([one for _, one in clips], dim=-1)
    context = torch.cat([wide, t5], dim=1)
    return [TextStates(c.clone(), p.clone()) for c, p in zip(context, pooled, strict=True)]


def _clip(files: ModelFiles, part: str, ids: Tensor, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """The last hidden layer but one, and the projected pooled state; on the CPU."""
    encoder = fill(blank(part, files.config(part)), files.weights(part), dtype, device)
    hidden, pooled = [], []
    for batch in ids.split(TEXT_BATCH):
        made = encoder(batch.to(device), output_hidden_states=True)
        hidden.append(made.hidden_states[-2].cpu())
        pooled.append(made.text_embeds.cpu())
    return torch.cat(hidden), torch.cat(pooled)


def stream_t5(
    files: ModelFiles,
    ids: Tensor,
    dtype: torch.dtype,
    device: torch.device,
    progress: Callable[[Iterable], Iterable] = iter,
) -> Tensor:
    """T5's last hidden states, (texts, tokens, width) on the CPU.

    Layer after layer is read from the file, used on all texts and let go: on the device there is never more than one
    layer, and the states of `TEXT_BATCH` texts. The embeddings stay on the CPU, and of them only the rows that the
    texts need are made.
    """
    encoder = blank("text_encoder_3", files.config("text_encoder_3")).encoder.eval()
    weights = files.weights("text_encoder_3")
    states = list(_embedded(weights, ids, dtype).split(TEXT_BATCH))
    position_bias = None
    for index, block in enumerate(progress(encoder.block)):
        _fill_block(block, weights, f"encoder.block.{index}.", dtype, device)
        for batch, hidden in enumerate(states):
            made, bias, *_ = block(hidden.to(device), None, position_bias)
            states[batch] = made.cpu()
        position_bias = bias
        block.to("meta")
    norm = fill(encoder.final_layer_norm, weights, dtype, device, "encoder.final_layer_norm.")
    return torch.cat([norm(hidden.to(device)).cpu() for hidden in states])


def _embedded(weights: PartWeights, ids: Tensor, dtype: torch.dtype) -> Tensor:
    used, places = ids.unique(return_inverse=True)
    return weights.read_rows("shared.weight", used, dtype)[places]


def _fill_block(block: Any, weights: PartWeights, prefix: str, dtype: torch.dtype, device: torch.device) -> None:
    fill(block, weights, dtype, device, prefix)
    if dtype == torch.float16:
        # The last layer of T5's feed-forward part is beyond the range of float16, as in transformers.
        put_back = weights.read(f"{prefix}layer.1.DenseReluDense.wo.weight", torch.float32, device)
        block.layer[1].DenseReluDense.wo.weight = nn.Parameter(put_back, requires_grad=False)
