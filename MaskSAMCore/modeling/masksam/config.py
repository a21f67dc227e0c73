"""The one description of a network: every number of its construction, saved with its weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

PromptForm = Literal["masks", "boxes", "both", "average"]
AdapterKind = Literal[
    "plain", "depth_mlp", "depth_mlp_before", "depth_mlp_after", "depth_convolution"
]


@dataclass(frozen=True)
class SamConfig:
    """The shape of a Segment Anything Model.

    Attributes:
        name: "vit_b", "vit_l", "vit_h" (Meta's checkpoints) or "vit_t" (our own small one).
        patch: edge of a token, in pixels of the network's in-plane grid.
        embed_dim, depth, heads, window, global_blocks: the image encoder (window in tokens).
        prompt_dim: width C of the neck, the prompt encoder and the mask decoder.
        decoder_mlp_dim, decoder_heads: the two-way transformer (always two layers, as in SAM).
        frozen: no parameter of SAM is trained.
    """

    name: str = "vit_b"
    patch: int = 16
    embed_dim: int = 768
    depth: int = 12
    heads: int = 12
    window: int = 14
    global_blocks: tuple[int, ...] = (2, 5, 8, 11)
    prompt_dim: int = 256
    decoder_mlp_dim: int = 2048
    decoder_heads: int = 8
    frozen: bool = True


SAM_CONFIGS = {
    "vit_b": SamConfig(),
    "vit_l": SamConfig("vit_l", embed_dim=1024, depth=24, heads=16, global_blocks=(5, 11, 17, 23)),
    "vit_h": SamConfig("vit_h", embed_dim=1280, depth=32, heads=16, global_blocks=(7, 15, 23, 31)),
    "vit_t": SamConfig(
        "vit_t",
        patch=4,
        embed_dim=192,
        depth=4,
        heads=6,
        window=0,
        global_blocks=(0, 1, 2, 3),
        prompt_dim=128,
        decoder_mlp_dim=256,
        decoder_heads=4,
        frozen=False,
    ),
}


@dataclass(frozen=True)
class MaskSAMConfig:
    """MaskSAM (paper section 2; what it leaves open is decided in the comments of each module).

    Attributes:
        num_classes: K, the foreground classes; class 0 is the background, K + 1 is "no object".
        in_channels: image channels of a volume.
        window: (T, H, W) of a window in voxels: T slices of H x W.
        queries: N, the masks, boxes and class tokens proposed for each slice.
        sam: the backbone.
        stem_channels: widths of the channel adapter. Two numbers or more with ``upsampling`` 4 are
            the paper's ACDC form; with ``stem_pyramid`` they are the widths at full, half, quarter
            (and eighth) resolution down to the tokens', and the finer maps reach the prompt
            generator and the decoder.
        upsampling: in-plane factor from the window to SAM's input (1 or 4).
        stem_pyramid: a convolutional pyramid as channel adapter; only for a SAM with 4-pixel or
            8-pixel tokens that is trained with it.
        detail_channels: width of an embedding of each voxel, whose product with a vector of each
            mask token is added to the mask (as in MaskFormer): detail that SAM's masks, at 4 times
            the token grid, do not have with 8-pixel tokens; 0 for none.
        residual_masks: the generator too gives each of its masks a vector for the detail, and the
            decoder's masks are added to the mask prompts: with many classes the decoder then says
            what to change, and need not learn every class anew. Needs ``detail_channels``.
        prototypes: width of the voxels' embeddings where the generator's masks also take what is
            like the voxels that they claim; 0 takes the detail channels for embeddings, and nothing
            but the vectors. Needs ``residual_masks``.
        prompts: the generator's form, Figure 2 (a) "masks", (b) "boxes", (c) "both", (d) "average".
        mask_prompt: what the prompt encoder receives: "logits" (as SAM was trained) or "binary".
        generator_channels: widths at 1, 2 and 4 times the token grid.
        head_channels: hidden width of the box and class-token heads.
        adapter_ratio: bottleneck width over the adapted width.
        encoder_adapter, decoder_adapter: the adapter for image and for prompt embeddings (the
            paper's ablations B1 to B9 exchange them, see ``ablations``).
        depth_position: learned depth position embeddings in encoder and decoder.
        dense_decoder_position: one decoder embedding a token instead of one a slice
            (T x C x h x w; needed for the paper's parameter counts).
    """

    num_classes: int
    in_channels: int = 1
    window: tuple[int, int, int] = (4, 256, 256)
    queries: int = 8
    sam: SamConfig = SAM_CONFIGS["vit_b"]
    stem_channels: tuple[int, ...] = (16, 32)
    upsampling: int = 4
    stem_pyramid: bool = False
    detail_channels: int = 0
    residual_masks: bool = False
    prototypes: int = 0
    prompts: PromptForm = "average"
    mask_prompt: Literal["logits", "binary"] = "logits"
    generator_channels: tuple[int, int, int] = (256, 128, 128)
    head_channels: int = 128
    adapter_ratio: float = 0.25
    encoder_adapter: AdapterKind = "depth_convolution"
    decoder_adapter: AdapterKind = "depth_mlp"
    depth_position: bool = True
    dense_decoder_position: bool = False

    # Windows half-overlap along depth too.
    every_slice = False

    def __post_init__(self) -> None:
        if len(self.window) != 3 or min(self.window) < 1:
            raise ValueError(f"window must be three positive numbers (T, H, W), not {self.window}")
        for size in self.window[1:]:
            if size * self.upsampling % self.sam.patch:
                raise ValueError(
                    f"window {self.window} times upsampling {self.upsampling} is not a whole number"
                    f" of {self.sam.patch}-pixel tokens: choose a multiple of the token size"
                )
        if self.upsampling not in (1, 4):
            raise ValueError(f"upsampling must be 1 or 4, not {self.upsampling}")
        if self.num_classes < 1 or self.queries < 1:
            raise ValueError("num_classes and queries must be at least 1")
        if self.stem_pyramid:
            levels = {4: 3, 8: 4}.get(self.sam.patch)
            if levels is None or self.upsampling != 1:
                raise ValueError(
                    "stem_pyramid needs a SAM with 4-pixel or 8-pixel tokens and no upsampling"
                )
            if len(self.stem_channels) != levels:
                raise ValueError(
                    f"with {self.sam.patch}-pixel tokens stem_channels must be {levels} widths,"
                    f" not {self.stem_channels}"
                )
        if self.detail_channels and not self.stem_pyramid:
            raise ValueError("detail_channels needs stem_pyramid")
        if self.residual_masks and (not self.detail_channels or self.prompts == "boxes"):
            raise ValueError("residual_masks needs detail_channels and mask prompts")
        if self.prototypes and not self.residual_masks:
            raise ValueError("prototypes needs residual_masks")

    @property
    def image_size(self) -> tuple[int, int]:
        """Rows and columns of SAM's input, in pixels."""
        return self.window[1] * self.upsampling, self.window[2] * self.upsampling

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens of a slice."""
        return self.image_size[0] // self.sam.patch, self.image_size[1] // self.sam.patch

    @property
    def voxel_channels(self) -> int:
        """Width of the embedding of a voxel; prototypes need a constant beside theirs."""
        return self.prototypes + 1 if self.prototypes else self.detail_channels

    @property
    def token_voxels(self) -> int:
        """Edge of a token in voxels: H and W of a window are multiples of it."""
        return max(1, self.sam.patch // self.upsampling)

    @property
    def frozen_sam(self) -> SamConfig | None:
        """The SAM whose weights come from its own file, where it is frozen."""
        return self.sam if self.sam.frozen else None

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> MaskSAMConfig:
        """Inverse of :meth:`to_dict`; an unknown key is a ValueError that names it."""
        return read_fields(cls, {**values, "sam": read_fields(SamConfig, values["sam"])})

    def replace(self, **changes: Any) -> MaskSAMConfig:
        """A copy with some fields changed."""
        return replace(self, **changes)


def read_fields(cls: type, values: dict[str, Any]) -> Any:
    """A dataclass from plain types; an unknown key is a ValueError that names it."""
    known = {field.name for field in fields(cls)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"unknown {cls.__name__} field(s): {', '.join(unknown)}")
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
