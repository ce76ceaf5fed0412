"""ComfyUI nodes for PureCC concepts: a LoRA for SD 3.5 and the concept's own vectors in every transformer block."""

from .nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
