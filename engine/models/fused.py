"""The same answers from fewer passes over memory, on a CPU: convolution, normalisation, activation and sum in one call.

In evaluation mode a normalisation behind a convolution is an affine map of its channels, which the convolution's own
weights and bias can carry; oneDNN then applies the activation, and adds a residual branch, while the result is still in
the processor's cache (``bench whatif`` says what that saves). The network is read once with torch.fx;
its weights are read again whenever they have changed, so masks work as ever. Sums are rounded elsewhere than in the
plain pass: logits agree to the precision of the type, not bit by bit. What is exact (``Compute(exact=True)``) is plain.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Sequence
from typing import TypeGuard
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from engine.models.base import Classifier

Stage = Callable[[Tensor], Tensor]

#: Shapes of input for which a convolution's weights are kept ready: whole batches, and the last ones of some sets.
SHAPES = 3
#: By network: the modules that it had when it was read, and its stages by precision.
_known: WeakKeyDictionary[nn.Module, tuple[list[nn.Module], dict[torch.dtype, list[Stage]]]] = WeakKeyDictionary()
_tracing = threading.Lock()  # torch.fx changes nn.Module for as long as it reads


def stages(model: nn.Module) -> list[Stage]:
    """Functions whose composition is the forward pass; the model alone where it names none."""
    net = model.net if isinstance(model, Classifier) else model
    named: Callable[[], list[Stage]] | None = getattr(net, "stages", None)
    if named is None:
        return [model]
    return [*([model.normalize] if isinstance(model, Classifier) else []), *named()]


def fused_stages(model: nn.Module, dtype: torch.dtype) -> list[Stage]:
    """The stages of a model on the CPU, in evaluation mode, with convolutions computed in ``dtype``.

    They read the weights of ``model`` as they are when asked; one that has got another module is read again. A model
    that somebody watches through hooks, or that torch.fx cannot read, is given plain.
    """
    modules = list(model.modules())
    if any(module._forward_hooks or module._forward_pre_hooks for module in modules):
        return stages(model)
    parts = modules[1:]  # not the model itself, which would then never go
    with _tracing:
        before, found = _known.get(model, (parts, {}))
        if before != parts:
            found = {}
        _known[model] = parts, found
        if dtype not in found:
            found[dtype] = [_fused(stage, dtype) for stage in stages(model)]
        return found[dtype]


class _Stage(nn.Module):
    """A stage as torch.fx reads it: a module that holds all modules which the stage calls."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage, self.owner = stage, getattr(stage, "__self__", None)

    def forward(self, x: Tensor) -> Tensor:
        return self.stage(x)


class _Convolution(nn.Module):
    """A convolution, the normalisation behind it if there is one, a sum with ``other`` and a ReLU, as one call.

    The folded weights are made anew when one of the tensors that they were made of has changed.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d | None, relu: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self._conv, self._norm, self._relu, self._dtype = [conv], [norm], relu, dtype  # lists: not submodules
        self._of: list[tuple[int, object]] = []
        self._weight = self._bias = torch.empty(0)
        self._packed: dict[torch.Size, Tensor] = {}  # the weights as oneDNN wants them, by the shape of the input

    def _refold(self) -> None:
        conv, norm = self._conv[0], self._norm[0]
        parts = [conv.weight, conv.bias]
        parts += [norm.weight, norm.bias, norm.running_mean, norm.running_var] if norm else []
        # Tensors of inference mode count no versions: what is made of them is made anew each time.
        now = [(p.data_ptr(), object() if p.is_inference() else p._version) for p in parts if p is not None]
        if now == self._of:
            return
        weight = conv.weight.detach().float()
        bias = weight.new_zeros(len(weight)) if conv.bias is None else conv.bias.detach().float()
        if norm is not None:
            assert norm.running_mean is not None and norm.running_var is not None
            scale = norm.weight.detach().float() / (norm.running_var + norm.eps).sqrt()
            weight = weight * scale.view(-1, 1, 1, 1)
            bias = (bias - norm.running_mean) * scale + norm.bias.detach().float()
        self._weight = weight.to(self._dtype).contiguous(memory_format=torch.channels_last)
        self._bias, self._of, self._packed = bias.to(self._dtype), now, {}

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        self._refold()
        conv = self._conv[0]
        x = x.to(self._dtype)
        where = (list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups)
        if x.shape not in self._packed:
            if len(self._packed) >= SHAPES:
                self._packed = {}
            pack = torch.ops.mkldnn._reorder_convolution_weight
            self._packed[x.shape] = pack(self._weight, *where, list(x.shape))
        weight, act = self._packed[x.shape], "relu" if self._relu else None
        if other is None:
            found: Tensor = torch.ops.mkldnn._convolution_pointwise(
                x, weight, self._bias, *where, act or "none", [], ""
            )
            return found
        summed: Tensor = torch.ops.mkldnn._convolution_pointwise.binary(
            x, other.to(self._dtype), weight, self._bias, *where, "add", None, act, [], ""
        )
        return summed


def _fused(stage: Stage, dtype: torch.dtype) -> Stage:
    """A stage with its convolutions replaced, or as it is where it cannot be read."""
    root = _Stage(stage)
    try:
        read = fx.symbolic_trace(root)
    except (fx.proxy.TraceError, TypeError, ValueError, AttributeError):
        return stage
    graph, called = read.graph, dict(read.named_modules())
    for node in list(graph.nodes):
        if _module(node, called, nn.Identity):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    order = {node: k for k, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        conv = _module(node, called, nn.Conv2d)
        if not isinstance(conv, nn.Conv2d) or conv.padding_mode != "zeros" or isinstance(conv.padding, str):
            continue
        last, norm = node, None
        if (user := _only_user(last)) and (found := _module(user, called, nn.BatchNorm2d)) and _known_affine(found):
            last, norm = user, found
        other = None
        if (user := _only_user(last)) and _is_sum(user):
            branch = next(one for one in user.args if one is not last)
            # What is added must be there before the convolution is computed.
            if isinstance(branch, fx.Node) and order[branch] < order[last] and user.args.count(last) == 1:
                last, other = user, branch
        relu = False
        if (user := _only_user(last)) and _is_relu(user, called):
            last, relu = user, True
        name = f"fused_{order[node]}"
        read.add_module(name, _Convolution(conv, norm, relu, dtype))
        with graph.inserting_before(last):
            taken = (node.args[0],) if other is None else (node.args[0], other)
            put = graph.call_module(name, taken)
        order[put] = order[last]
        last.replace_all_uses_with(put)
    graph.eliminate_dead_code()
    read.recompile()
    return read


def _module(node: fx.Node, called: dict[str, nn.Module], kind: type[nn.Module]) -> nn.Module | None:
    found = called.get(str(node.target)) if node.op == "call_module" else None
    return found if type(found) is kind else None


def _known_affine(norm: nn.Module) -> TypeGuard[nn.BatchNorm2d]:
    return isinstance(norm, nn.BatchNorm2d) and norm.affine and norm.track_running_stats


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _is_sum(node: fx.Node) -> bool:
    plain = node.op == "call_function" and node.target in (operator.add, operator.iadd, torch.add)
    return plain and len(node.args) == 2 and not node.kwargs and all(isinstance(one, fx.Node) for one in node.args)


def _is_relu(node: fx.Node, called: dict[str, nn.Module]) -> bool:
    if node.op == "call_function":
        return node.target in (F.relu, torch.relu)
    return _module(node, called, nn.ReLU) is not None


def through(stages: Sequence[Stage], x: Tensor) -> Tensor:
    """One stage after the other."""
    for stage in stages:
        x = stage(x)
    return x
