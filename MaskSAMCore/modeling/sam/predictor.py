"""SAM as it is, for single slices and boxes: the way of ``segment_anything``'s predictor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from MaskSAMCore.modeling.masksam.config import SAM_CONFIGS, SamConfig
from MaskSAMCore.modeling.sam.build import (
    attend_in_windows,
    build_sam,
    load_sam_checkpoint,
    mismatches,
    read_sam_checkpoint,
)

# Pixels of SAM's square input, along each side.
IMAGE_SIZE = 1024
# Boxes that are decoded together: each repeats the image embedding.
_BOXES_AT_ONCE = 16

BlockCallback = Callable[[], None]


class PlainSam(nn.Module):
    """A SAM or MedSAM of the official sizes.

    Args:
        config: its shape.
        image_size: pixels along each side of its input; another than 1024 interpolates positions.
    """

    def __init__(self, config: SamConfig, image_size: int = IMAGE_SIZE) -> None:
        super().__init__()
        self.config = config
        self.image_size = image_size
        tokens = image_size // config.patch
        self.sam = build_sam(config, (tokens, tokens))

    @classmethod
    def from_checkpoint(
        cls, path: str | Path, config: SamConfig, image_size: int = IMAGE_SIZE
    ) -> PlainSam:
        """A SAM with the weights of a checkpoint, ready for inference.

        Raises:
            ValueError: the checkpoint is of another form; all that does not fit is named.
        """
        with torch.device("meta"):
            model = cls(config, image_size)
        load_sam_checkpoint(model.sam, path)
        return model.float().eval().requires_grad_(False)

    def encode(self, images: Tensor, each_block: BlockCallback | None = None) -> Tensor:
        """The image embedding.

        Args:
            images: (B, 3, image_size, image_size), prepared as the checkpoint wants them.
            each_block: called before each block of the image encoder; it may raise to stop.

        Returns:
            (B, C, image_size / 16, image_size / 16), equal to SAM's own within 1e-4 in float32.
        """
        encoder = self.sam.image_encoder
        x = encoder.patch_embed(images) + encoder.pos_embed
        for block in encoder.blocks:
            if each_block is not None:
                each_block()
            x = x + attend_in_windows(block, block.norm1(x))
            x = x + block.mlp(block.norm2(x))
        embedding: Tensor = encoder.neck(x.permute(0, 3, 1, 2))
        return embedding

    def decode(self, embedding: Tensor, boxes: Tensor) -> Tensor:
        """One mask for each box.

        Args:
            embedding: (1, C, h, w) of one slice.
            boxes: (N, 4), x1 y1 x2 y2 in pixels of SAM's input.

        Returns:
            (N, 4 h, 4 w) logits; above 0 is inside.
        """
        masks = []
        for some in boxes.split(_BOXES_AT_ONCE):
            sparse, dense = self.sam.prompt_encoder(points=None, boxes=some, masks=None)
            logits, _ = self.sam.mask_decoder(
                image_embeddings=embedding,
                image_pe=self.sam.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=False,
            )
            masks.append(logits[:, 0])
        return torch.cat(masks)


def checkpoint_config(path: str | Path) -> SamConfig:
    """The shape of the SAM in a checkpoint, which must have exactly the official names and shapes.

    Raises:
        ValueError: it is no SAM of an official size, or something in it does not fit; all that
            does not is named.
    """
    state = read_sam_checkpoint(path, mapped=True)
    position = state.get("image_encoder.pos_embed")
    width = None if position is None else position.shape[-1]
    for name in ("vit_b", "vit_l", "vit_h"):
        config = SAM_CONFIGS[name]
        if config.embed_dim == width:
            with torch.device("meta"):
                wanted = build_sam(config, (IMAGE_SIZE // 16, IMAGE_SIZE // 16)).state_dict()
            if problems := mismatches(state, wanted):
                raise ValueError(f"{path} does not fit SAM {name}: {'; '.join(problems)}")
            return config
    raise ValueError(
        f"{path} is no SAM of an official size (vit_b, vit_l or vit_h): "
        + ("it has no image encoder" if width is None else f"its tokens are {width} wide")
    )
