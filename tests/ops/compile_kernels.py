"""Compile every kernel for the compute capabilities given as arguments; no GPU is needed."""

import sys

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from retinanet.ops.decode import triton as decode
from retinanet.ops.focal_loss import triton as focal_loss
from retinanet.ops.nms import triton as nms

TYPES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32", torch.int32: "i32", torch.int64: "i64"}


class Recorder:
    """Stands in for a wrapped kernel: a launch compiles it for its arguments' types."""

    def __init__(self, kernel):
        self.kernel = kernel

    def __getitem__(self, grid):
        return self

    def __call__(self, *arguments, num_warps, **constants):
        names = self.kernel.arg_names
        given = dict(zip(names, arguments, strict=False))
        signature = {name: kind_of(given[name]) if name in given else "constexpr" for name in names}
        source = ASTSource(self.kernel, signature, {(names.index(name),): value for name, value in constants.items()})
        for capability in map(int, sys.argv[1:]):
            compiled = triton.compile(
                source, target=GPUTarget("cuda", capability, 32), options={"num_warps": num_warps}
            )
            assert compiled.asm["cubin"]
            print(self.kernel.__name__, capability)


def kind_of(value):
    if isinstance(value, torch.Tensor):
        return "*" + TYPES[value.dtype]
    return "fp32" if isinstance(value, float) else "i32"


for module in (decode, nms, focal_loss):
    module.wrap_triton = Recorder

for dtype, layout in ((torch.float16, torch.channels_last), (torch.float32, torch.contiguous_format)):
    logits = torch.zeros(1, 9 * 80, 20, 30, dtype=dtype).contiguous(memory_format=layout)
    deltas = torch.zeros(1, 9 * 4, 20, 30, dtype=dtype).contiguous(memory_format=layout)
    image_sizes = torch.zeros(1, 2, dtype=torch.int64)
    decode.decode([logits], [deltas], image_sizes, torch.zeros(1, 9, 4), [8.0, 8.0], 0.5, -2.9, 1000)
flat, labels = torch.zeros(10, 80, dtype=torch.bfloat16), torch.zeros(10, dtype=torch.int64)
focal_loss.focal_loss(flat, labels, 0.25, 2.0)
focal_loss.focal_loss_backward(torch.ones(()), flat, labels, 0.25, 2.0)
nms.nms(torch.zeros(1, 5000), torch.zeros(1, 5000, 4), torch.zeros(1, 5000, dtype=torch.int64), 0.5, 100)
