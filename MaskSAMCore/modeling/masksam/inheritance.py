"""Initial weights of a MaskSAM for other classes and a smaller window, from a trained one."""

from __future__ import annotations

from collections.abc import Sequence
from operator import gt

import torch
from torch import Tensor

from MaskSAMCore.modeling.masksam.config import MaskSAMConfig
from MaskSAMCore.modeling.masksam.network import DECODER_PARTS, MaskSAM

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
# Fields of the configuration in which a network may differ from the one that it comes from.
_CHANGING = ("window", "num_classes", "queries", "separate_masks")


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
    config = source.config.replace(
        window=window, num_classes=len(origins), queries=len(origins) + 1
    )
    model = MaskSAM(config)
    inherit_weights(model, source, origins, queries)
    return model


def inherit_weights(
    model: MaskSAM, source: MaskSAM, origins: Sequence[int], queries: Sequence[int]
) -> None:
    """Initialise a network for other classes from a trained network, see :func:`inherited_network`.

    Args:
        model: network to initialise, equal to the source but for its classes, its queries, H and W
            of its window, and ``separate_masks``. Queries beyond one for each class start as those
            of the source that are not yet used. If ``separate_masks`` differs, the decoder keeps
            its own weights, because the source's was trained for masks of another meaning.
        source: trained network.
        origins: index of the source's class that each class 1 to K of the model comes from.
        queries: index of the source's query that shows each of its classes, background first.

    Raises:
        ValueError: the networks differ in other parts, or have parts whose weights cannot be
            divided among other queries.
    """
    old, new = source.config, model.config
    if source.upscaling is not None:
        raise ValueError("its mask upscaling mixes the masks of all queries")
    changed = {name: getattr(new, name) for name in _CHANGING}
    if old.replace(**changed) != new:
        raise ValueError("it has other parts or other widths")
    if new.window[0] != old.window[0] or any(map(gt, new.window, old.window)):
        raise ValueError(
            f"its windows have {old.window[0]} slices of at most {old.window[1]} x {old.window[2]}"
            " voxels"
        )
    chosen = [0, *origins]
    shown = [queries[index] for index in chosen]
    shown += [query for query in range(old.queries) if query not in shown]
    if not len(chosen) <= new.queries <= len(shown):
        raise ValueError(
            f"{new.queries} queries cannot come from its {old.queries}: choose from"
            f" {len(chosen)} to {len(shown)}"
        )
    state = source.state_dict()
    # Row K + 1 is "no object", also in the source.
    rows = torch.tensor([*chosen, old.num_classes + 1])
    blocks = torch.tensor(shown[: new.queries])
    decoder_differs = new.separate_masks != old.separate_masks
    inherited = {}
    for name, wanted in model.state_dict().items():
        if decoder_differs and name.startswith(DECODER_PARTS):
            continue
        value = state[name]
        if name.startswith(_OF_CLASSES):
            value = value[rows]
        elif name.startswith(_OF_QUERIES):
            value = value.unflatten(0, (old.queries, -1))[blocks].flatten(0, 1)
        elif name.endswith(_POSITION):
            value = _middle(_middle(value, 1, wanted.shape[1]), 2, wanted.shape[2])
        elif name.endswith(_RELATIVE_POSITIONS):
            value = _middle(value, 0, len(wanted))
        if value.shape != wanted.shape:
            raise ValueError(f"{name} is for windows of {old.window[1]} x {old.window[2]} voxels")
        inherited[name] = value
    model.load_state_dict(inherited, strict=False)


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
