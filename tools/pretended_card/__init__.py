"""A pretended GPU: it runs the trainer's own code on device "cuda", on a computer without a GPU.

Everything on the CPU is real: images, captions, noise, files. Tensors on the GPU are PyTorch's fake tensors. They have
a shape, a dtype and a device, but no values. They raise the errors that a real GPU raises: for tensors on two devices
in one operation, for dtypes that don't match, and for a generator or an index on the wrong device. Every storage on the
GPU is tracked, and CUDA's caching allocator is simulated for it. A value that is read from the GPU is made up.

It finds mistakes in devices, dtypes and shapes, and it counts memory. It can't find:

- wrong results and NaN: its kernels compute no values;
- mistakes in compiled or third-party kernels: xformers, torch.compile, Triton, and those of bitsandbytes (only the
  shapes that its layers and optimizers declare are checked);
- whether an optimizer's fused or foreach kernels accept the weights: fake tensors use the plain ones;
- mistakes with streams, overlapping copies and pinned memory: there is one stream, and everything finishes at once;
- speed, driver errors, and the memory that CUDA itself takes.

`building` compiles the C++ part and loads it into a process, `card` is the GPU, and `computer` makes PyTorch's Python
side use it. `library.models.memory.allocator` simulates its memory.
"""
