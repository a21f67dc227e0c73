"""Reading, recognising and loading of official SAM and MedSAM checkpoints."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from MaskSAMCore.modeling.sam.build import Sam, build_sam
from MaskSAMCore.modeling.sam.config import SAM_CONFIGS, SamConfig

# Edge of SAM's square input in pixels.
IMAGE_SIZE = 1024


def load_sam_checkpoint(sam: Sam, path: str | Path) -> None:
    """Load an official SAM or MedSAM checkpoint.

    The position embedding and the relative positions of blocks with global attention are
    interpolated to the token grid of the model.

    Args:
        sam: the model to fill, which may be on the meta device.
        path: file with the checkpoint.

    Raises:
        ValueError: keys are missing, unexpected or of another shape; the message names all of them.
    """
    state = read_sam_checkpoint(path)
    wanted = sam.state_dict()
    for key in set(wanted) & set(state):
        state[key] = _interpolated(key, state[key], wanted[key])
    problems = state_mismatches(state, wanted)
    if problems:
        raise ValueError(f"{path} does not fit this SAM: {'; '.join(problems)}")
    on_meta = any(value.is_meta for value in wanted.values())
    sam.load_state_dict(state, assign=on_meta)


def read_sam_checkpoint(path: str | Path, mapped: bool = False) -> dict[str, Tensor]:
    """Return the tensors of a SAM or MedSAM checkpoint under SAM's own names.

    Only tensors are unpickled. MedSAM's training files, which hold the weights under
    ``model``, are accepted.

    Args:
        path: file with the checkpoint.
        mapped: map the file into memory instead of reading it; the file must then stay in place.

    Raises:
        ValueError: the file is not a state dict of tensors.
    """
    try:
        with Path(path).open("rb") as stream:
            # Only PyTorch's newer files, which are zip archives, can be mapped.
            mapped = mapped and stream.read(4) == b"PK\x03\x04"
        with warnings.catch_warnings():
            # PyTorch warns about other versions of pickle before it refuses the file.
            warnings.simplefilter("ignore")
            state = torch.load(str(path), map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:
        # PyTorch's messages are long, and some advise running the code in a file.
        objects = isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error)
        reason = "it holds Python objects, not only tensors" if objects else "it may be damaged"
        raise ValueError(f"{path} is not a readable SAM checkpoint: {reason}") from error
    if isinstance(state, dict) and isinstance(state.get("model"), dict):
        state = state["model"]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"{path} is not a SAM checkpoint: it must be a plain state dict")
    state = {str(key).removeprefix("module."): value for key, value in state.items()}
    for key in ("pixel_mean", "pixel_std"):
        state.pop(key, None)
    return state


def checkpoint_config(path: str | Path) -> SamConfig:
    """Return the configuration of the SAM in a checkpoint of an official size.

    Raises:
        ValueError: the checkpoint has no official size, or keys or shapes differ from that size;
            the message names all of them.
    """
    state = read_sam_checkpoint(path, mapped=True)
    position = state.get("image_encoder.pos_embed")
    width = None if position is None else position.shape[-1]
    for name in ("vit_b", "vit_l", "vit_h"):
        config = SAM_CONFIGS[name]
        if config.embed_dim == width:
            tokens = IMAGE_SIZE // config.patch_size
            with torch.device("meta"):
                wanted = build_sam(config, (tokens, tokens)).state_dict()
            if problems := state_mismatches(state, wanted):
                raise ValueError(f"{path} does not fit SAM {name}: {'; '.join(problems)}")
            return config
    raise ValueError(
        f"{path} is no SAM of an official size (vit_b, vit_l or vit_h): "
        + ("it has no image encoder" if width is None else f"its tokens are {width} wide")
    )


def state_mismatches(state: dict[str, Tensor], wanted: dict[str, Tensor]) -> list[str]:
    """Return one phrase for each missing, unexpected or misshapen key of a state dict."""
    problems = [f"missing {key}" for key in wanted if key not in state]
    problems += [f"unexpected {key}" for key in state if key not in wanted]
    for key, value in wanted.items():
        if key in state and state[key].shape != value.shape:
            shapes = f"{tuple(state[key].shape)}, not {tuple(value.shape)}"
            problems.append(f"{key} has shape {shapes}")
        elif key in state and state[key].is_floating_point() != value.is_floating_point():
            problems.append(f"{key} has numbers of another kind")
    return problems


def _interpolated(key: str, value: Tensor, wanted: Tensor) -> Tensor:
    """Return a tensor interpolated to the shape wanted, if its shape depends on the grid."""
    if value.shape == wanted.shape or value.ndim != wanted.ndim:
        return value
    if key == "image_encoder.pos_embed" and value.shape[-1] == wanted.shape[-1]:
        resized = F.interpolate(
            value.permute(0, 3, 1, 2).float(),
            wanted.shape[1:3],
            mode="bicubic",
            align_corners=False,
            antialias=True,
        )
        return resized.permute(0, 2, 3, 1).to(value.dtype)
    if ".attn.rel_pos_" in key and value.shape[-1] == wanted.shape[-1]:
        resized = F.interpolate(value.T[None].float(), wanted.shape[0], mode="linear")
        return resized[0].T.to(value.dtype)
    return value
