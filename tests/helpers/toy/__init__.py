"""A second family of models, for tests alone: one text encoder, no pooled state, two lists of blocks.

Blocks of the first list keep text and picture apart, as SD3's do. Those of the second have one stream, in which the
text's rows come before the picture's. Nothing outside this folder knows of it.
"""
