"""The operators under PyTorch's compilers: each must pass through whole, and run where our Python is not."""

import subprocess
import sys

import pytest
import torch
from decode_cases import make_case
from nms_cases import make_candidates

from retinanet.ops.decode import decode
from retinanet.ops.focal_loss import focal_loss
from retinanet.ops.nms import loop, nms
from retinanet.types import Detections

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class PostProcessing(torch.nn.Module):
    """Decode and NMS, with what a model's record holds as constants."""

    def __init__(self, detections=20):
        super().__init__()
        *_, cell_anchors, self.strides = make_case()
        self.register_buffer("cell_anchors", cell_anchors)
        self.detections = detections

    def forward(self, logits, deltas, image_sizes):
        candidates = decode(logits, deltas, image_sizes, self.cell_anchors, self.strides, centre_offset=0.5, top_n=20)
        return tuple(nms(*candidates, detections=self.detections))


def maps(batch=2, dtype=torch.float32):
    logits, deltas, image_sizes, *_ = make_case(batch=batch, dtype=dtype)
    return on_device(logits), on_device(deltas), image_sizes.to(DEVICE)


def on_device(values):
    return [value.to(DEVICE) for value in values]


def test_opcheck_of_decode():
    logits, deltas, *tensors, strides = make_case(sizes=((3, 2), (1, 1)))
    flat = [pixels for pair in strides for pixels in pair]
    arguments = on_device(logits), on_device(deltas), *on_device(tensors), flat, 0.5, -2.9, 20
    torch.library.opcheck(torch.ops.retinanet.decode.default, arguments)


def test_opcheck_of_nms():
    torch.library.opcheck(torch.ops.retinanet.nms.default, (*on_device(make_candidates(count=40)), 0.5, 10))


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU: elsewhere the focal loss is no operator of ours")
def test_opcheck_of_the_focal_loss():
    logits, labels = torch.randn(7, 5, device="cuda", requires_grad=True), torch.arange(-2, 5, device="cuda")
    torch.library.opcheck(torch.ops.retinanet.focal_loss.default, (logits, labels, 0.25, 2.0))


def test_decode_and_nms_compile_into_one_graph():
    model = PostProcessing(detections=5).to(DEVICE)
    compiled = torch.compile(model, fullgraph=True, backend="inductor" if DEVICE == "cuda" else "aot_eager")
    for result, expected in zip(compiled(*maps()), model(*maps()), strict=True):
        torch.testing.assert_close(result, expected)


def test_the_focal_loss_compiles_with_its_gradient():
    logits = torch.randn(2, 30, 7, device=DEVICE, requires_grad=True)
    labels = torch.randint(-2, 7, (2, 30), device=DEVICE)
    focal_loss(logits, labels).backward()
    expected, logits.grad = logits.grad, None
    compiled = torch.compile(focal_loss, fullgraph=True, backend="inductor" if DEVICE == "cuda" else "aot_eager")
    compiled(logits, labels).backward()
    torch.testing.assert_close(logits.grad, expected)


def test_export_keeps_the_operators_and_any_batch():
    model = PostProcessing().to(DEVICE)
    batch = torch.export.Dim("batch", min=1, max=64)
    dynamic = ([{0: batch}] * 5, [{0: batch}] * 5, {0: batch})
    program = torch.export.export(model, maps(), dynamic_shapes=dynamic)
    names = {str(node.target) for node in program.graph.nodes}
    assert {"retinanet.decode.default", "retinanet.nms.default"} <= names
    for count in (1, 3):
        for result, expected in zip(program.module()(*maps(count)), model(*maps(count)), strict=True):
            assert torch.equal(result, expected)


class Suppression(torch.nn.Module):
    """NMS alone."""

    def forward(self, scores, boxes, labels):
        return tuple(nms(scores, boxes, labels, detections=30))


@pytest.mark.parametrize("count", [300, 7])
def test_nms_as_one_loop_equals_the_reference(count):
    model, inputs = Suppression(), make_candidates(count=count)
    scores = inputs[0]
    scores[0, ::3], scores[1] = float("nan"), 0
    batch = torch.export.Dim("batch", min=1, max=8)
    program = torch.export.export(model, inputs, dynamic_shapes=[{0: batch}] * 3)
    program = program.run_decompositions({torch.ops.retinanet.nms.default: loop.nms})
    names = [str(node.target) for node in program.graph.nodes]
    assert names.count("while_loop") == 1
    assert len(names) < 60  # no step is unrolled
    assert "retinanet.nms.default" not in names
    for rows in (inputs, [values[:1] for values in inputs], make_candidates(batch=3, count=count, seed=1)):
        for result, expected in zip(program.module()(*rows), model(*rows), strict=True):
            assert torch.equal(result, expected)


@pytest.mark.slow
def test_an_ahead_of_time_package_runs_without_our_code(tmp_path):
    model, inputs = PostProcessing().to(DEVICE), maps()
    program = torch.export.export(model, inputs)
    package = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "model.pt2"))
    torch.save((inputs, model(*inputs)), tmp_path / "case.pt")
    script = """
import sys, torch
inputs, expected = torch.load(sys.argv[2])
for result, other in zip(torch._inductor.aoti_load_package(sys.argv[1])(*inputs), expected, strict=True):
    torch.testing.assert_close(result, other)
assert not {name.split(".")[0] for name in sys.modules} & {"retinanet", "torchvision"}
"""
    subprocess.run([sys.executable, "-c", script, package, tmp_path / "case.pt"], check=True, cwd=tmp_path)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
def test_nothing_waits_for_the_gpu_and_a_graph_holds_it_all():
    model, inputs = PostProcessing().cuda(), maps()
    expected = model(*inputs)
    logits, labels = torch.randn(50, 7, device="cuda", requires_grad=True), torch.randint(-2, 7, (50,), device="cuda")
    focal_loss(logits, labels).backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        model(*inputs)
        focal_loss(logits, labels).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = model(*inputs)
    for result in results:
        result.fill_(-7)
    graph.replay()
    assert all(torch.equal(result, other) for result, other in zip(results, expected, strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
@pytest.mark.parametrize("mean", [-6.5, -5.0, 0.0])
def test_full_size_equals_the_reference(mean):
    """800×1344, 80 classes, fp16: decode's kernels against its reference, then NMS's on the same candidates."""
    sizes = [(-(-800 // stride), -(-1344 // stride)) for stride in (8, 16, 32, 64, 128)]
    case = make_case(anchors=9, classes=80, sizes=sizes, dtype=torch.float16, mean=mean)
    logits, deltas, image_sizes, cell_anchors, strides = case
    on_cpu = decode(logits, deltas, image_sizes * 10, cell_anchors, strides, centre_offset=0.5)
    on_gpu = decode(
        [level.cuda() for level in logits],
        [level.cuda() for level in deltas],
        image_sizes.cuda() * 10,
        cell_anchors.cuda(),
        strides,
        centre_offset=0.5,
    )
    assert torch.equal(on_gpu[2].cpu(), on_cpu[2])
    torch.testing.assert_close(on_gpu[0].cpu(), on_cpu[0], rtol=4 * 2**-23, atol=0)
    torch.testing.assert_close(on_gpu[1].cpu(), on_cpu[1], rtol=0, atol=2**-6)
    result: Detections = nms(*on_gpu)
    for ours, expected in zip(result, nms(*(values.cpu() for values in on_gpu)), strict=True):
        assert torch.equal(ours.cpu(), expected)
