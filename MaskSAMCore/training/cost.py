"""Memory and floating-point operations of a training step, derived without computing its values.

The forward and the backward pass run on tensors that have a shape but no memory. The bytes that the
tensors would take are counted as they are created and freed, and so are the operations of matrix
products, convolutions and attention.
"""

from __future__ import annotations

import weakref
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import Variable
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.checkpoint import set_checkpoint_early_stop
from torch.utils.flop_counter import flop_registry

from MaskSAMCore.modeling import Network, NetworkConfig, build_model
from MaskSAMCore.training.hyperparameters import TrainSettings
from MaskSAMCore.training.losses import find_loss
from MaskSAMCore.training.matcher import Assignment

_FLOAT_BYTES = 4


@dataclass(frozen=True)
class StepCost:
    """Cost of the forward and backward pass of a batch on one device.

    Attributes:
        activations: peak memory in bytes of all tensors but the weights.
        operations: number of floating-point operations; a multiply-add counts as two.
    """

    activations: int
    operations: int


def shapes_of_network(config: NetworkConfig, settings: TrainSettings) -> Network:
    """Return the network of a training with tensors that have a shape but no memory.

    Raises:
        ValueError: the network has no decoder that could be trained alone.
    """
    with torch.device("meta"):
        model = build_model(config)
    if settings.decoder_alone:
        model.freeze_proposals()
    return model


def fixed_bytes(config: NetworkConfig, settings: TrainSettings) -> int:
    """Return the bytes that a training takes on a device independently of its batch: weights, the
    optimizer's state, averaged weights, and the gradients of trained weights."""
    model = shapes_of_network(config, settings)
    everything = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.trained_parameters().values())
    states = 1 if settings.optimizer == "sgd" else 2
    copies = 1 + states + 1  # gradients, optimizer, averaged weights, which are kept in any case
    return _FLOAT_BYTES * (everything + copies * trained)


def step_cost(
    config: NetworkConfig,
    settings: TrainSettings,
    batch: int,
    gradient_checkpointing: bool = False,
    device: str = "cuda",
    half: bool = True,
) -> StepCost:
    """Return the cost of the forward and backward pass of a batch.

    Args:
        config: network.
        settings: hyperparameters.
        batch: number of windows on the device at a time.
        gradient_checkpointing: recompute activations in the backward pass.
        device: "cuda" or "cpu", which compute attention in different ways.
        half: use mixed precision with bfloat16.
    """
    # Ground-truth boxes depend on values, which these tensors lack, and cost next to nothing.
    settings = settings.replace(loss=_without_ground_truth(settings.loss))
    model = shapes_of_network(config, settings)
    model.set_gradient_checkpointing(gradient_checkpointing)
    with ExitStack() as stack:
        # A recomputation that stops early keeps tensors alive in reference cycles.
        stack.enter_context(set_checkpoint_early_stop(False))
        if device == "cpu":
            stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
            _to_cpu(model)
        place = "cpu" if device == "cpu" else "meta"
        images = torch.empty(batch, config.in_channels, *config.window, device=place)
        labels = torch.empty(batch, *config.window, dtype=torch.long, device=place)
        # The meta device has no autocast: _MixedPrecision emulates it while the CPU's is on.
        stack.enter_context(torch.autocast("cpu", torch.bfloat16, enabled=half))
        if device != "cpu":
            stack.enter_context(_MixedPrecision())
        counter = stack.enter_context(_Counter(model))
        _run_step(model, settings, images, labels)
        return StepCost(counter.peak, counter.operations)


def _run_step(model: Network, settings: TrainSettings, images: Tensor, labels: Tensor) -> None:
    loss_module = find_loss(model.config.kind)
    arguments: dict[str, Any] = {}
    if model.config.kind == "masksam":
        arguments["matching"] = _all_classes
    loss, _ = loss_module.training_loss(model, images, labels, settings.loss, None, **arguments)
    # The emulation of mixed precision would be off within Tensor.backward.
    Variable._execution_engine.run_backward(
        (loss,), (torch.ones_like(loss),), False, False, (), True, accumulate_grad=True
    )


def _to_cpu(model: Network) -> None:
    """Replace a network's tensors on the meta device by tensors without memory on the CPU.

    Module.to_empty fails for a module that is part of two others, as the U-Net's encoder is,
    because it replaces the module's tensors twice.
    """
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            empty = torch.empty_like(parameter, device="cpu")
            setattr(module, name, nn.Parameter(empty, parameter.requires_grad))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty_like(buffer, device="cpu"))


def _without_ground_truth(loss: Any) -> Any:
    if loss.to_dict().get("prompts"):
        return loss.replace(prompts=loss.prompts.replace(share=0.0))
    return loss.replace(box_share=0.0) if "box_share" in loss.to_dict() else loss


def _all_classes(cost: Tensor, present: Tensor) -> Assignment:
    """Match query k with class k on all slices: the largest possible number of pairs."""
    slices, classes = present.shape
    index = torch.arange(slices * classes, device=cost.device)
    return Assignment(index // classes, index % classes, index % classes)


class _Counter(TorchDispatchMode):
    """Counter of floating-point operations and of the memory of all tensors but the network's own.

    Attributes:
        peak: largest number of bytes in use at a time so far.
        operations: number of floating-point operations so far.
    """

    def __init__(self, model: Network) -> None:
        super().__init__()
        self.peak = self._now = self.operations = 0
        own = [*model.parameters(), *model.buffers()]
        self._seen = {id(t.untyped_storage()) for t in own}
        self._own = own

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        formula = flop_registry.get(function.overloadpacket)
        if formula is not None:
            self.operations += formula(*args, **kwargs, out_val=result)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._add(leaf)
        return result

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self._seen:
            return
        self._seen.add(key)
        self._now += size
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self._now -= size


# Operations that PyTorch's mixed precision on a GPU computes in half and in full precision.
_HALF = {
    "addmm", "baddbmm", "bmm", "conv2d", "conv3d", "conv_transpose2d", "conv_transpose3d", "einsum",
    "linear", "matmul", "mm", "prelu", "rmatmul", "scaled_dot_product_attention",
}  # fmt: skip
_FULL = {
    "cosine_similarity", "cross_entropy", "cumsum", "exp", "group_norm", "layer_norm", "log",
    "log_softmax", "norm", "pow", "prod", "softmax", "softplus", "sum",
}  # fmt: skip


class _MixedPrecision(TorchFunctionMode):
    """Emulation of a GPU's mixed precision on the meta device, while the CPU's autocast is on.

    Attention is computed in one kernel, as on a GPU.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "").strip("_")
        if torch.is_autocast_enabled("cpu"):
            if name in _HALF:
                args, kwargs = _cast((args, kwargs), torch.float32, torch.bfloat16)
            elif name in _FULL:
                args, kwargs = _cast((args, kwargs), torch.bfloat16, torch.float32)
        if name == "scaled_dot_product_attention":
            q, k, v = args
            return torch.ops.aten._scaled_dot_product_efficient_attention(
                q, k, v, None, True, scale=kwargs.get("scale")
            )[0]
        return function(*args, **kwargs)


def _cast(values: Any, before: torch.dtype, after: torch.dtype) -> Any:
    def cast(value: Any) -> Any:
        return value.to(after) if isinstance(value, Tensor) and value.dtype == before else value

    return tree_map(cast, values)
