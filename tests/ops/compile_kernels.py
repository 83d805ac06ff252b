"""Compile every kernel for the compute capabilities given as arguments, and say what PyTorch takes it to write into.

No GPU is needed.
"""

import sys

import torch
import triton
from torch._higher_order_ops import triton_kernel_wrap
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from retinanet.ops.decode import triton as decode
from retinanet.ops.feature_maps import triton as feature_maps
from retinanet.ops.focal_loss import triton as focal_loss
from retinanet.ops.nms import triton as nms
from retinanet.ops.normalise import triton as normalise
from retinanet.ops.recolour import triton as recolour

TYPES = {
    **{torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"},
    **{torch.uint8: "u8", torch.int32: "i32", torch.int64: "i64"},
}


class Recorder:
    """Stands in for a wrapped kernel: a launch compiles it for its arguments' types."""

    def __init__(self, kernel):
        self.kernel = kernel

    def __getitem__(self, grid):
        return self

    def __call__(self, *arguments, num_warps, **constants):
        names = self.kernel.arg_names
        given = dict(zip(names, arguments, strict=False))
        constants |= {name: 1 for name, value in given.items() if type(value) is int and value == 1}  # as a launch does
        print(self.kernel.__name__, *sorted(self.written(given | constants)))
        signature = {name: "constexpr" if name in constants else kind_of(given[name]) for name in names}
        source = ASTSource(self.kernel, signature, {(names.index(name),): value for name, value in constants.items()})
        for capability in map(int, sys.argv[1:]):
            compiled = triton.compile(
                source, target=GPUTarget("cuda", capability, 32), options={"num_warps": num_warps}
            )
            assert compiled.asm["cubin"]
            print(self.kernel.__name__, capability)

    def written(self, given):
        """The arguments that compilers save from being overwritten, and gradients from being lost."""
        table = triton_kernel_wrap.kernel_side_table
        index, none = table.add_kernel(self.kernel), table.add_constant_args({})
        return triton_kernel_wrap.get_mutated_tensors(index, none, given, {})


class Driver:
    """Stands in for a GPU's."""

    class active:
        @staticmethod
        def get_current_target():
            return GPUTarget("cuda", int(sys.argv[1]), 32)


def kind_of(value):
    if isinstance(value, torch.Tensor):
        return "*" + TYPES[value.dtype]
    return "fp32" if isinstance(value, float) else "i32"


triton.runtime.driver = Driver
for module in (decode, nms, focal_loss):
    module.wrap_triton = Recorder
for module, name in (
    *((feature_maps, name) for name in ("_add_bias", "_max_pool", "_upsample")),
    (normalise, "_normalise"),
    (recolour, "_recolour"),
):
    setattr(module, name, Recorder(getattr(module, name)))


def decode_all(dtype, layout, *, anchors=9, classes=80, size=(20, 30), top_n=1000):
    logits = torch.zeros(1, anchors * classes, *size, dtype=dtype).contiguous(memory_format=layout)
    deltas = torch.zeros(1, anchors * 4, *size, dtype=dtype).contiguous(memory_format=layout)
    image_sizes, cell_anchors = torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1, anchors, 4)
    decode.decode([logits], [deltas], image_sizes, cell_anchors, [8.0, 8.0], 0.5, -2.9, top_n)


def suppress_all(candidates=5000, detections=100):
    labels = torch.zeros(1, candidates, dtype=torch.int64)
    nms.nms(torch.zeros(1, candidates), torch.zeros(1, candidates, 4), labels, 0.5, detections)


decode_all(torch.float16, torch.channels_last)
decode_all(torch.float32, torch.contiguous_format)
decode_all(torch.bfloat16, torch.contiguous_format, anchors=1, classes=1, size=(1, 1), top_n=1)
suppress_all()
suppress_all(candidates=1, detections=1)
for shape, gamma in (((10, 80), 2.0), ((10, 80), 1.5), ((1, 1), 2.0)):
    logits, labels = torch.zeros(shape, dtype=torch.bfloat16), torch.zeros(shape[0], dtype=torch.int64)
    focal_loss.focal_loss(logits, labels, 0.25, gamma)
    focal_loss.focal_loss_backward(torch.ones(()), logits, labels, 0.25, gamma)
pictures, sizes = torch.zeros(1, 3, 32, 64, dtype=torch.uint8), torch.zeros(1, 2, dtype=torch.int64)
normalise.normalise(pictures, sizes, torch.zeros(3, dtype=torch.float16), torch.ones(3, dtype=torch.float16))
recolour.recolour_(pictures, sizes, torch.zeros(1, 3, 4))
maps = torch.zeros(1, 16, 8, 8, dtype=torch.float16).contiguous(memory_format=torch.channels_last)
feature_maps.add_bias(maps, maps[0, :, 0, 0])
feature_maps.max_pool(maps, 3, 2, 1)
feature_maps.upsample(maps, (16, 16), maps[0, :, 0, 0])
