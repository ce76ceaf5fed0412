"""A second model family, only for tests: one text encoder, no pooled state, two lists of blocks.

Blocks of the first list keep text and picture apart, as SD3's do. Those of the second have one stream, in which the
text's rows come before the picture's. Nothing in the library knows it.
"""
