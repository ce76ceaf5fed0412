"""DreamBooth: full fine-tuning with prior preservation.

Ruiz et al. (arXiv 2208.12242), Eq. 2: flow matching on the pictures with "a [V] [class]", and on class pictures that
the pretrained model drew, with prior_loss_weight. As in diffusers' script for SD3.

The port:

* Of each weight its change is what learns, kept apart from the pretrained weight. A step is the same; the pretrained
  model stays there beside the tuned one, for sheets, ties and audits; and a change in bf16 is not rounded away beside
  the weight that it is added to. In bytes it is an fp32 master copy and a bf16 one: per number 2 of the base, 4 of the
  change (2 with full_bf16), 2 of an 8-bit optimizer, and no gradient with fused_backward_pass.
* All linear layers of attention and feed-forward in the blocks learn, about two thirds of SD 3.5 Medium's weights. Not
  the adaptive norms, as Stability advises for tuning, unless target_modules names `norm1.linear`; not biases, norms and
  what lies outside the blocks.
* The learning rate is the paper's 5e-6. diffusers' default is 1e-4, and so may be the one of PureCC's table.
* `ewc_lambda` and `l2_anchor_weight` add these penalties for whole weights.

Saved are the whole transformer (NAME_transformer.safetensors, diffusers' names) and a LoRA of rank network_dim with the
largest singular directions of each layer's change, in all layouts.
"""

from __future__ import annotations

from library.config.settings import Settings
from library.methods import ewc, l2_anchor
from library.methods.method import Method
from library.methods.prior_preservation import objective


def weights(settings: Settings) -> dict[str, float]:
    """Both penalties, where they have a weight."""
    return {**ewc.weights(settings), **l2_anchor.weights(settings)}


METHOD = Method(objective, penalties=weights, student_weights="full")
