"""Mix-of-Show's ED-LoRA: a LoRA, and in every layer a separate vector for each token of the concept's word.

Gu et al. (arXiv 2305.18292): layer-wise embeddings take over what belongs to the concept, so that several LoRAs can be
fused afterwards; `library/convert/gradient_fusion.py` has the fusion.

The port:
* In an MMDiT each block rewrites the text stream instead of reading the text again, so "the layer's own embedding"
  needs a definition: at the input of every block, a learned vector replaces the state of each token of [V]. PureCC has
  the same vectors (Eq. 7). They start from the class word's states.
* The authors' two words, one random and one of the class, are [V] and the class word next to it.
* The text encoders run once and get no LoRA. Their attention regulariser needs maps of cross-attention, which an MMDiT
  does not have, so it is left out. Masks (`alpha_mask`, `masked_loss`) exclude areas from the loss, as the authors' do.
* Sampling by regions is left to UIs.
"""

from __future__ import annotations

from library.methods.lora import objective
from library.methods.method import Method, register
from library.methods.reads import ED_LORA, WITH_VECTORS

register(
    Method(
        name="mix_of_show",
        trains="a LoRA, and a vector in every block for each token of [V]: ED-LoRA",
        reads=ED_LORA,
        defaults=WITH_VECTORS,
        student=objective,
    )
)
