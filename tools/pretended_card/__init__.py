"""A pretended card: device "cuda" in a PyTorch without CUDA, for checking what no machine without a card could.

What lies on it is computed by the CPU, so a whole run comes to the numbers of a run on the CPU, or it has no numbers at
all, only shapes, so that the full-size model runs in minutes. It raises what a card raises: two devices in one
operation, a generator of the wrong device, indices on the card for a tensor that is not, out of memory. It counts
where the program waits for the card, follows streams, pinned memory and every storage, and simulates CUDA's caching
allocator.

It can't see how fast anything is, what kernels round, or what a driver does.
"""
