"""The fused network: what it joins, and that it says what the network said."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from retinanet.config import PostprocessConfig
from retinanet.model.fusion import fold_batch_norms, fuse_module, fused, joined
from retinanet.model.fusion.layers import BiasedConv, ConvRelu, MaxPool
from retinanet.model.network import RetinaNet
from retinanet.model.record import ModelRecord
from retinanet.predict.runtimes.fused import FusedRuntime
from retinanet.predict.runtimes.torch import TorchRuntime
from retinanet.types import Batch, HeadOutputs


def disturb(module: nn.Module) -> nn.Module:
    """Batch norm that does something: the untrained one is nearly the identity, and hides every error."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, 0, 0.3)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, 0, 0.3)
        elif isinstance(part, nn.Conv2d) and part.bias is not None:
            nn.init.normal_(part.bias, 0, 0.3)
    return module.eval()


def backbone(name: str) -> nn.Module:
    torch.manual_seed(0)
    return disturb(timm.create_model(name, pretrained=False, features_only=True, out_indices=(-3, -2, -1)))


def count(module: nn.Module, kind: type[nn.Module]) -> int:
    return sum(type(part) is kind for part in module.modules())


@torch.no_grad()
def assert_same(one: nn.Module, two: nn.Module, images: Tensor) -> None:
    for expected, found in zip(one(images), two(images), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=3e-5 * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("name", "joined"),
    [
        ("test_resnet", 12),
        ("resnet18", 17),
        ("resnext50_32x4d", 33),  # grouped convolutions stay alone
        ("regnety_004", 49),
        ("mobilenetv2_100", 0),  # ReLU6
        ("tf_efficientnet_lite0", 0),  # padding that depends on the image
        ("densenet121", 59),  # batch norm and ReLU before the convolution
        ("convnext_atto", 0),
        ("nf_resnet50", 0),  # weights that are computed at each call
    ],
)
def test_every_backbone_says_the_same(name: str, joined: int) -> None:
    plain = backbone(name)
    fused = fuse_module(copy.deepcopy(plain))
    assert_same(plain, fused, torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1)))
    assert_same(plain, fused, torch.randn(1, 3, 96, 64, generator=torch.Generator().manual_seed(2)))
    assert count(fused, ConvRelu) == joined


def test_resnet50_is_49_calls_and_4_shortcuts() -> None:
    fused = fuse_module(backbone("resnet50"))
    assert count(fused, ConvRelu) == 49
    inside = [part.conv for part in fused.modules() if isinstance(part, ConvRelu)]
    shortcuts = [part for part in fused.modules() if isinstance(part, nn.Conv2d) and part not in inside]
    assert [part.bias for part in shortcuts] == [None] * 4  # their bias went to the convolution they are added to
    assert not any(isinstance(part, nn.BatchNorm2d) for part in fused.modules())


class Awkward(nn.Module):
    """Patterns that look like what is joined, and must not be."""

    def __init__(self) -> None:
        super().__init__()
        self.seen_twice = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.shared = nn.Conv2d(4, 4, 3, padding=1)
        self.first, self.second = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.reflecting = nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")
        self.same = nn.Conv2d(4, 4, 3, padding="same")
        self.last = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.seen_twice(x)
        y = torch.relu(self.norm(x)) + x  # x goes on as well
        y = self.second(self.shared(self.first(self.shared(y)))).relu()
        y = torch.relu(self.reflecting(y))
        y = torch.relu(self.same(y))
        z = self.last(y)
        return [torch.relu(z + 1), torch.relu(torch.add(y, self.last(z), alpha=2)), torch.relu(z + z)]


def test_what_only_looks_alike_is_left_alone() -> None:
    torch.manual_seed(0)
    plain = disturb(Awkward())
    fused = fuse_module(copy.deepcopy(plain))
    assert_same(plain, fused, torch.randn(2, 3, 9, 7))
    assert count(fused, ConvRelu) == 0


class Residuals(nn.Module):
    """Additions of every kind that are joined."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1, bias=index % 2 == 0) for index in range(6))
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> list[Tensor]:
        a = torch.relu(self.convs[0](x) + x)
        b = (a + self.norm(self.convs[1](a))).relu_()
        c = self.convs[2](b)
        c += self.convs[3](b)
        d = nn.functional.relu(c)
        return [torch.relu(self.convs[4](d).add_(self.convs[5](a)))]


def test_additions_are_joined_whichever_side_the_convolution_is_on() -> None:
    torch.manual_seed(0)
    plain = disturb(Residuals())
    fused = fuse_module(copy.deepcopy(plain))
    assert_same(plain, fused, torch.randn(2, 3, 9, 7))
    assert count(fused, ConvRelu) == 4


class Counting(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if int(x.abs().sum()) % 2 else x * 3


class Partly(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.counting = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU()), Counting()

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.counting(self.stem(x))]


def test_code_that_depends_on_the_data_runs_as_it_is() -> None:
    plain = disturb(Partly())
    fused = fuse_module(copy.deepcopy(plain))
    assert count(fused, ConvRelu) == count(fused, Counting) == 1
    for seed in range(4):
        assert_same(plain, fused, torch.randn(1, 3, 5, 5, generator=torch.Generator().manual_seed(seed)))
    assert isinstance(fuse_module(Counting().eval()), Counting)


def disturbed_network(record: ModelRecord, name: str) -> RetinaNet:
    record = replace(record, backbones=(replace(record.backbones[0], name=name),))
    torch.manual_seed(0)
    network = RetinaNet(record).eval()
    disturb(network)
    return network


def assert_same_outputs(expected: HeadOutputs, found: HeadOutputs) -> None:
    assert found.strides == expected.strides
    for one, two in zip([*expected.logits, *expected.deltas], [*found.logits, *found.deltas], strict=True):
        torch.testing.assert_close(two, one, rtol=1e-4, atol=3e-5 * float(one.abs().max()))


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0", "convnext_atto", "densenet121"])
def test_the_fused_network_says_the_same(name: str, record: ModelRecord, batch: Batch) -> None:
    """Pyramid, heads and stem too."""
    network = disturbed_network(record, name)
    with torch.inference_mode():
        expected = network(batch.images, batch.image_sizes)
        outputs = fused(network)(batch.images, batch.image_sizes)
    assert_same_outputs(expected, outputs)


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0", "convnext_atto"])
def test_folding_alone_leaves_ordinary_modules_under_their_names(name: str, record: ModelRecord, batch: Batch) -> None:
    network = disturbed_network(record, name)
    with torch.inference_mode():
        expected = network(batch.images, batch.image_sizes)
    before = {part: kind for part, kind in network.named_modules() if isinstance(kind, nn.Conv2d)}
    folded = fold_batch_norms(network)
    assert {part: type(kind) for part, kind in folded.named_modules() if isinstance(kind, nn.Conv2d)} == {
        part: type(kind) for part, kind in before.items()
    }
    body = folded.members[0].body
    called = [body.get_submodule(node.target) for node in body.graph.nodes if node.op == "call_module"]
    assert called
    assert not any(isinstance(part, nn.BatchNorm2d | ConvRelu) for part in called)
    with torch.inference_mode():
        found = folded(batch.images, batch.image_sizes)
    assert_same_outputs(expected, found)


@pytest.mark.parametrize(("name", "convs"), [("resnet18", 25), ("tf_efficientnet_lite0", 8), ("convnext_atto", 8)])
def test_what_is_joined_for_compilers_says_the_same(name: str, convs: int, record: ModelRecord, batch: Batch) -> None:
    """Those of the two heads' towers everywhere; what is not a convolution stays as it was."""
    network = disturbed_network(record, name)
    with torch.inference_mode():
        expected = network(batch.images, batch.image_sizes)
        network = joined(fold_batch_norms(network))
        found = network(batch.images, batch.image_sizes)
    assert_same_outputs(expected, found)
    assert count(network, ConvRelu) == convs
    assert not count(network, BiasedConv)
    assert not count(network, MaxPool)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_fused_network_on_a_gpu(record: ModelRecord, batch: Batch) -> None:
    """With our kernels, as run and as branches of a graph."""
    network = disturbed_network(record, "resnet50").cuda()
    inputs = batch.images.cuda(), batch.image_sizes.cuda()
    with torch.inference_mode():
        expected = network(*inputs)
        half = fused(network).half().to(memory_format=torch.channels_last)
        for _ in range(2):
            outputs = half(*inputs)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            recorded = half(*inputs)
        graph.replay()
    for found in (outputs, recorded):
        for one, two in zip([*expected.logits, *expected.deltas], [*found.logits, *found.deltas], strict=True):
            assert (two.float() - one).norm() < 0.02 * one.norm()


def test_the_runtime_detects_the_same(trained: Path) -> None:
    images = torch.randint(0, 256, (2, 3, 64, 96), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    sizes = torch.tensor([[64, 96], [50, 64]])
    plain = TorchRuntime.from_file(trained, postprocess=PostprocessConfig(), device="cpu")(images, sizes)
    runtime = FusedRuntime.from_file(trained, postprocess=PostprocessConfig(), device="cpu")
    fused = runtime(images, sizes)
    assert plain.count.tolist() == fused.count.tolist()
    torch.testing.assert_close(fused.scores, plain.scores, rtol=1e-4, atol=1e-5)
    sure = slice(0, 5)  # further down, near ties may change places
    torch.testing.assert_close(fused.boxes[:, sure], plain.boxes[:, sure], rtol=1e-4, atol=1e-2)
    assert count(runtime.detector, ConvRelu) >= 12 + 8


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d", "mobilenetv2_100", "tf_efficientnet_lite0"])
def test_half_precision_on_a_gpu(name: str) -> None:
    """No further from single precision than the network itself is in half."""
    plain = backbone(name).cuda()
    images = torch.randn(2, 3, 128, 96, device="cuda")
    in_half = images.half().contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        expected = plain(images)
        half = copy.deepcopy(plain).half().to(memory_format=torch.channels_last)(in_half)
        fused = fuse_module(copy.deepcopy(plain)).half().to(memory_format=torch.channels_last)(in_half)
    for one, usual, found in zip(expected, half, fused, strict=True):
        assert (found.float() - one).norm() < 2 * (usual.float() - one).norm()
