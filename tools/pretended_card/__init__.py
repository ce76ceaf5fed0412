"""A graphics card that is only pretended: the trainer's own code on device "cuda", on a computer without one.

What is on the CPU is real: images, captions, noise, files. What is on the card are fake tensors of PyTorch. They have
shapes, dtypes and a device, but no numbers. They raise what a real card raises: for tensors of two devices in one
operation, dtypes that do not fit, a generator or an index of the wrong device. Every storage on the card is followed,
and CUDA's caching allocator is simulated on it. A number that is read from the card is made up.

It shows faults of devices, dtypes and shapes, and memory. It does not show:

- any number that a kernel computes, so no wrong result and no NaN;
- kernels that are compiled or brought along: xformers, torch.compile, Triton, and what bitsandbytes computes in (its
  layers and optimizers are seen by the shapes that it declares);
- whether fused or foreach kernels of an optimizer accept the weights: fake tensors take the plain way;
- streams, overlapping copies and races of pinned memory: one stream, everything is finished at once;
- speed, drivers, and the memory that CUDA itself takes.

`building` makes the C++ part and inserts the card into a process, `card` is the card, `allocator` its memory, and
`computer` makes PyTorch believe in it.
"""
