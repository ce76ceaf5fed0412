"""Runs the text encoders one by one; none of them ever shares the device with another part."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from library.models.family import ModelFiles
from library.models.interface import Progress, TextStates
from library.models.loading.weights import PartWeights, fill
from library.models.memory.counting import Footprint, count_pass
from library.models.memory.live_memory import held_by, storage_bytes
from library.models.memory.operations import META
from library.models.memory.work import Work
from library.models.sd3.checkpoint_layouts import TEXT_ENCODERS
from library.models.sd3.modules import blank

if TYPE_CHECKING:
    from transformers import T5EncoderModel

TEXT_BATCH = 8
"""Prompts encoded at a time."""


def count_text(encoders: Sequence[nn.Module], lengths: Sequence[int], rows: int) -> Footprint:
    """The memory for encoding texts: the encoders use the device one by one, T5 layer by layer.

    Args:
        encoders: CLIP-L, CLIP-G and T5 on the meta device.
        lengths: how many tokens of a text each reads.
        rows: texts encoded together.
    """
    found = []
    for encoder, length in zip(encoders, lengths, strict=True):
        ids = torch.zeros(rows, length, dtype=torch.long, device=META)
        found.append(count_pass(encoder, partial(encoder, ids)))
    t5_layer = max(storage_bytes(held_by(layer)) for layer in encoders[2].get_submodule("encoder.block").children())
    work, weights = Work(), max(found[0].weights, found[1].weights, t5_layer)
    for one in found:
        work.operations.update(one.work.operations)
    transient, gaps = max(one.transient for one in found), max(one.gaps for one in found[:2])
    return Footprint(weights, transient, work, sum(one.weights for one in found), gaps)


@torch.no_grad()
def encode_texts(
    files: ModelFiles,
    ids: Sequence[Tensor],
    dtype: torch.dtype,
    device: torch.device,
    progress: Progress = iter,
    masks: Sequence[Tensor | None] = (None, None, None),
) -> list[TextStates]:
    """The three encoders' states for texts, on the CPU.

    Args:
        ids: the tokens of every text for CLIP-L, CLIP-G and T5, (texts, tokens).
        progress: wraps the loop over T5's layers, which takes nearly all of the time.
        masks: for each, 1 at tokens that are read and 0 at padding; None: all are read.
    """
    t5 = stream_t5(files, ids[2], dtype, device, progress, masks[2])
    clips = [
        _clip(files, part, tokens, dtype, device, mask)
        for part, tokens, mask in zip(TEXT_ENCODERS[:2], ids[:2], masks[:2], strict=True)
    ]
    wide = torch.cat([hidden for hidden, _ in clips], dim=-1)
    wide = nn.functional.pad(wide, (0, t5.shape[-1] - wide.shape[-1]))
    pooled = torch.cat([one for _, one in clips], dim=-1)
    context = torch.cat([wide, t5], dim=1)
    return [TextStates(c.clone(), p.clone()) for c, p in zip(context, pooled, strict=True)]


def _clip(
    files: ModelFiles, part: str, ids: Tensor, dtype: torch.dtype, device: torch.device, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The second-to-last hidden layer, and the projected pooled state; on the CPU."""
    encoder = fill(blank(part, files.config(part)), files.weights(part), dtype, device)
    hidden, pooled = [], []
    for rows in range(0, len(ids), TEXT_BATCH):
        batch = slice(rows, rows + TEXT_BATCH)
        read = None if mask is None else mask[batch].to(device)
        made = encoder(ids[batch].to(device), attention_mask=read, output_hidden_states=True)
        hidden.append(made.hidden_states[-2].cpu())
        pooled.append(made.text_embeds.cpu())
    return torch.cat(hidden), torch.cat(pooled)


def stream_t5(
    files: ModelFiles,
    ids: Tensor,
    dtype: torch.dtype,
    device: torch.device,
    progress: Progress = iter,
    mask: Tensor | None = None,
) -> Tensor:
    """T5's last hidden states, (texts, tokens, width) on the CPU.

    Each layer is read from the file, used on all texts and released. The device never holds more than one layer and
    the states of `TEXT_BATCH` texts. The embeddings stay on the CPU, with only the rows that the texts need.
    """
    encoder: Any = cast("T5EncoderModel", blank("text_encoder_3", files.config("text_encoder_3"))).encoder.eval()
    weights = files.weights("text_encoder_3")
    states = list(_embedded(weights, ids, dtype).split(TEXT_BATCH))
    unread = None if mask is None else list(_unread(mask, dtype).split(TEXT_BATCH))
    position_bias = None
    for index, block in enumerate(progress(encoder.block)):
        _fill_block(block, weights, f"encoder.block.{index}.", dtype, device)
        if position_bias is None:  # of the first block, shared by all
            length = ids.shape[1]
            position_bias = block.layer[0].SelfAttention.compute_bias(length, length, device=device)
        for batch, hidden in enumerate(states):
            bias = position_bias if unread is None else position_bias + unread[batch].to(device)
            made, *_ = block(hidden.to(device), None, bias)
            states[batch] = made.cpu()
        block.to("meta")
    norm = fill(encoder.final_layer_norm, weights, dtype, device, "encoder.final_layer_norm.")
    return torch.cat([norm(hidden.to(device)).cpu() for hidden in states])


def _unread(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """The attention bias that hides padding, (texts, 1, 1, tokens)."""
    return torch.zeros(mask.shape, dtype=dtype).masked_fill(mask == 0, torch.finfo(dtype).min)[:, None, None]


def _embedded(weights: PartWeights, ids: Tensor, dtype: torch.dtype) -> Tensor:
    used, places = ids.unique(return_inverse=True)
    return weights.read_rows("shared.weight", used, dtype)[places]


def _fill_block(block: Any, weights: PartWeights, prefix: str, dtype: torch.dtype, device: torch.device) -> None:
    fill(block, weights, dtype, device, prefix)
    if dtype == torch.float16:
        # The last layer of T5's feed-forward part exceeds the range of float16: float32, as in transformers.
        put_back = weights.read(f"{prefix}layer.1.DenseReluDense.wo.weight", torch.float32, device)
        block.layer[1].DenseReluDense.wo.weight = nn.Parameter(put_back, requires_grad=False)
