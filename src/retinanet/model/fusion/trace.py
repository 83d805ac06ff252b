"""A module as a graph of its calls, whatever its Python looks like."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from timm.layers import BatchNormAct2d, Conv2dSame
from torch import fx, nn

ATOMS = (BatchNormAct2d, Conv2dSame)
"""timm's modules that are known as a whole."""


class _Tracer(fx.Tracer):
    """Stays out of the modules of types `leaves`."""

    def __init__(self, leaves: set[type[nn.Module]]) -> None:
        super().__init__()
        self.leaves = leaves
        self.inside: list[type[nn.Module]] = []
        """Types of the modules whose forward is running, outermost first; after a failure, of those it came from."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) in self.leaves or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        self.inside.append(type(m))
        result = super().call_module(m, forward, args, kwargs)
        self.inside.pop()
        return result


def trace(module: nn.Module) -> fx.GraphModule | None:
    """The graph of `module`, sharing its weights; None where its own forward cannot be traced.

    A module inside whose code depends on the data (sizes, say) is one call of the graph. Hooks are no calls, so what
    works by them (timm's `FeatureHookNet`) cannot be traced.
    """
    if any(part._forward_hooks or part._forward_pre_hooks for part in module.modules()):
        return None
    leaves: set[type[nn.Module]] = set(ATOMS)
    while True:
        tracer = _Tracer(leaves)
        try:
            graph = tracer.trace(module)
        except Exception:  # any code may stand in a module, and fail in any way when it meets a stand-in for a tensor
            if not tracer.inside:
                return None
            leaves.add(tracer.inside[-1])
        else:
            return fx.GraphModule(tracer.root, graph)


def read_modules(graph: fx.Graph) -> set[str]:
    """Names of the modules from which the graph takes a weight by itself, and which therefore stay what they are."""
    return {str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}
