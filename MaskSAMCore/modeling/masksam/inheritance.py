"""Initial weights of a MaskSAM for other classes and a smaller window, from a trained one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from MaskSAMCore.modeling.masksam.config import MaskSAMConfig
from MaskSAMCore.modeling.masksam.network import MaskSAM

# Weights whose rows form consecutive blocks, one for each query.
_OF_QUERIES = (
    "generator.mask_head",
    "generator.coarser_heads",
    "generator.box_head.2",
    "generator.class_head.2",
    "generator.vector_head.2",
    "generator.prototypes.scale",
)
_OF_CLASSES = "decoder.class_head"
_POSITION = "image_encoder.pos_embed"
_RELATIVE_POSITIONS = (".rel_pos_h", ".rel_pos_w")


def inherited_network(
    source: MaskSAM, window: tuple[int, int, int], origins: Sequence[int], queries: Sequence[int]
) -> MaskSAM:
    """Return a network for other classes, initialised from a trained network.

    Each new class starts with the query and the row of the class head of the class that it comes
    from. A smaller window gets the position embeddings of the middle of the source's window.

    Args:
        source: trained network.
        window: (T, H, W) in voxels: T of the source, H and W multiples of the token size and at
            most those of the source.
        origins: index of the source's class that each new class 1 to K comes from.
        queries: index of the source's query that shows each of its classes, background first.

    Raises:
        ValueError: the network has parts whose weights cannot be divided among other queries.
    """
    old = source.config
    if source.upscaling is not None:
        raise ValueError("its mask upscaling mixes the masks of all queries")
    chosen = [0, *origins]
    config = old.replace(window=window, num_classes=len(origins), queries=len(chosen))
    model = MaskSAM(config)
    state = source.state_dict()
    # Row K + 1 is "no object", also in the source.
    rows = torch.tensor([*chosen, old.num_classes + 1])
    shown = torch.tensor([queries[index] for index in chosen])
    inherited = {}
    for name, wanted in model.state_dict().items():
        value = state[name]
        if name.startswith(_OF_CLASSES):
            value = value[rows]
        elif name.startswith(_OF_QUERIES):
            value = value.unflatten(0, (old.queries, -1))[shown].flatten(0, 1)
        elif name.endswith(_POSITION):
            value = _middle(_middle(value, 1, wanted.shape[1]), 2, wanted.shape[2])
        elif name.endswith(_RELATIVE_POSITIONS):
            value = _middle(value, 0, len(wanted))
        inherited[name] = value
    model.load_state_dict(inherited)
    return model


def _middle(value: Tensor, axis: int, length: int) -> Tensor:
    return value.narrow(axis, (value.shape[axis] - length) // 2, length)


def fitting_window(config: MaskSAMConfig, extent: Sequence[float]) -> tuple[int, int, int]:
    """Return a network's smallest window that covers an extent in-plane, at most its full window.

    Args:
        config: configuration of the network.
        extent: rows and columns to cover in voxels.
    """
    token = config.token_voxels
    rows, columns = (
        min(-(-int(-(-size // 1)) // token) * token, most)
        for size, most in zip(extent, config.window[1:], strict=True)
    )
    return config.window[0], rows, columns
