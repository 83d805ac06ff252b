"""Compiled training is the same training; and neither canvases nor full images have it compiled again and again."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from step_cases import make_step
from torch._dynamo.utils import counters

from command_line import Command, Shapes, assert_same, checkpoint
from retinanet.model.compiling import blocks, compile_blocks, heads, uncompiled
from retinanet.model.criterion import Criterion
from retinanet.types import NO_LABEL, Batch


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """What the compiler knows of other tests."""
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def made_up(height: int, width: int, slots: int) -> Batch:
    """Two images on a canvas: one nearly full of boxes, one with a crowd and a narrower picture."""
    random = torch.Generator().manual_seed(height + width + slots)
    boxes, labels = torch.zeros(2, slots, 4), torch.full((2, slots), NO_LABEL)
    corner = torch.rand(slots - 3, 2, generator=random) * torch.tensor([width - 80.0, height - 80.0])
    boxes[0, :-3] = torch.cat([corner, corner + 16 + torch.rand(slots - 3, 2, generator=random) * 60], dim=1)
    labels[0, :-3] = torch.randint(3, (slots - 3,), generator=random)
    boxes[1, 0], labels[1, 0] = torch.tensor([0.0, 0, 200, 100]), 1
    crowd = torch.zeros(2, slots, dtype=torch.bool)
    crowd[1, 0] = True
    return Batch(
        torch.randint(256, (2, height, width, 3), dtype=torch.uint8, generator=random).permute(0, 3, 1, 2),
        torch.tensor([[height, width], [height, width - 40]]),
        boxes,
        labels,
        crowd,
        torch.arange(2),
        torch.tensor([[1.0, 1, 0, 0]]).repeat(2, 1),
    )


# No smaller, or the coarsest level is a single cell, of which the compiler makes a case of its own.
CANVASES = [(288, 352), (352, 288), (320, 320)]


def compiled_step(**options):
    step = make_step(**options)
    compile_blocks(step.network)
    step.criterion = Criterion(step.network, compile=True)
    return step


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["pretrained", "none"])  # batch norm frozen, live
def test_losses_gradients_and_statistics_are_those_of_eager_steps(weights: str) -> None:
    eager, compiled = make_step(weights=weights), compiled_step(weights=weights)
    for size, slots in zip(CANVASES[:2], (32, 64), strict=True):
        batch = made_up(*size, slots)
        expected, found = eager(batch, 0.001), compiled(batch, 0.001)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        for one, other in zip(compiled.parameters, eager.parameters, strict=True):
            # Sums in another order, of terms that cancel: live batch norm's gradients keep fewer digits.
            assert (one.grad - other.grad).norm() <= 0.01 * other.grad.norm() + 1e-5
        torch.testing.assert_close(compiled.network.state_dict(), eager.network.state_dict(), rtol=1e-3, atol=1e-5)
    assert counters["stats"]["unique_graphs"] > 0
    assert not counters["graph_break"]


def test_other_canvases_and_fuller_images_compile_little_or_nothing() -> None:
    """Counted while the compiler only traces: what it would do with the graphs takes minutes."""
    step = compiled_step(weights="pretrained")
    graphs = lambda: counters["stats"]["unique_graphs"]  # noqa: E731
    with torch.compiler.set_stance(force_backend="eager"):
        step(made_up(*CANVASES[0], 32), 0.001)
        first = graphs()
        # Blocks of layer1, the others, those after frozen ones; towers, pyramid; overlaps, taking in (twice), box loss.
        assert first <= 12
        step(made_up(*CANVASES[2], 64), 0.001)
        assert graphs() - first <= 4  # matching and box loss, with these sizes free
        known = graphs()
        for canvas in CANVASES:
            for slots in (32, 64, 128, 256):
                step(made_up(*canvas, slots), 0.001)
        assert graphs() - known <= 1
    assert not counters["graph_break"]


def test_a_compiled_run_writes_what_an_eager_one_does(
    train: Command, shapes: Shapes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**shapes.validation, "iters": 2}
    with torch.compiler.set_stance(force_backend="eager"):
        for name, compile in {"compiled": True, "eager": None, "no_compile": False}.items():
            (tmp_path / name).mkdir()
            counters.clear()
            more = {"no_compile": True} if compile is False else {"compile": compile}
            assert train(tmp_path / name / "model.pth", **options, **more).code == 0
            assert (counters["stats"]["unique_graphs"] > 0) == (name == "compiled")
    for name in ("compiled", "no_compile"):
        for file in ("model.pth", "model.best.pth"):
            assert_same(checkpoint(tmp_path / name / file), checkpoint(tmp_path / "eager" / file))


def test_prediction_between_steps_compiles_nothing() -> None:
    step = compiled_step()
    batch = made_up(*CANVASES[0], 32)
    with torch.compiler.set_stance(force_backend="eager"):
        with uncompiled(step.network), torch.inference_mode():
            step.network.eval()(batch.images, batch.image_sizes)
        assert counters["stats"]["unique_graphs"] == 0
        step.network.train()
        step(batch, 0.001)
        assert counters["stats"]["unique_graphs"] > 0


def test_a_copy_of_a_compiled_network_has_weights_of_its_own() -> None:
    step, batch = compiled_step(), made_up(96, 128, 32)
    with torch.compiler.set_stance("force_eager"), torch.inference_mode():
        before = step.network(batch.images, batch.image_sizes)
        twin = copy.deepcopy(step.network)
        for parameter in twin.parameters():
            parameter.zero_()
        for logits in twin(batch.images, batch.image_sizes).logits:
            assert not logits.any()
        after = step.network(batch.images, batch.image_sizes)
    torch.testing.assert_close(after, before, rtol=0, atol=0)


def test_blocks_cover_all_that_has_neighbours_to_join() -> None:
    network = make_step().network
    inside = {id(part) for block in (*blocks(network), *heads(network)) for part in block.modules()}
    outside = {name for name, part in network.named_modules() if id(part) not in inside and not list(part.children())}
    body = "backbones.0.body."
    assert {name for name in outside if not name.startswith((f"{body}bn1", f"{body}maxpool", f"{body}act1"))} == {
        name for name in outside if name.startswith(f"{body}conv1")
    }


def test_a_level_of_a_head_is_one_graph() -> None:
    """PyTorch's own containers, such as the towers, are not compiled when they are asked to, and nobody says so."""
    found = []

    def keep(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        found.append(sum(node.target is torch.conv2d for node in graph.graph.nodes))
        return graph.forward

    with torch.compiler.set_stance(force_backend=keep):
        compiled_step()(made_up(*CANVASES[0], 32), 0.001)
    assert found.count(5) == 2  # four of the tower and the last, for each head
