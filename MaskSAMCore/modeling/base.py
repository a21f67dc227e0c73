"""Base classes of all networks and of their configurations and predictions."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from MaskSAMCore.modeling.box_prompts import BoxPrompts
from MaskSAMCore.modeling.configuration import Configuration
from MaskSAMCore.modeling.layers import Checkpointed
from MaskSAMCore.modeling.sam.build import Sam
from MaskSAMCore.modeling.sam.config import SAM_CONFIGS, SamConfig

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class NetworkConfig(Configuration):
    """Description of a network, saved with its weights.

    Attributes:
        kind: name of the network's package, see :mod:`MaskSAMCore.modeling.registry`.
        every_slice: True if inference centres a window on every slice of a volume and averages the
            predictions; otherwise windows half-overlap along depth, as they do in-plane.
        needs_boxes: True if the network segments only classes that have box prompts.
        num_classes: K, the number of foreground classes; class 0 is the background.
        in_channels: number of image channels.
        window: (T, H, W) of a window in voxels: T slices of H x W.
    """

    kind: ClassVar[str]
    every_slice: ClassVar[bool] = False
    needs_boxes: ClassVar[bool] = False

    num_classes: int
    in_channels: int = 1
    window: tuple[int, int, int] = (4, 256, 256)

    def __post_init__(self) -> None:
        if len(self.window) != 3 or min(self.window) < 1:
            raise ValueError(f"window must be three positive numbers (T, H, W), not {self.window}")
        if self.num_classes < 1:
            raise ValueError("num_classes must be at least 1")

    @property
    def token_voxels(self) -> int:
        """Number of voxels that H and W of a window must be a multiple of."""
        return 1

    @property
    def parts(self) -> tuple[int, int, int]:
        """Number of parts along T, H and W that voxels are divided into for the refined classes."""
        return 1, 1, 1

    @property
    def scored_classes(self) -> int:
        """Number S of classes, 1 to S, whose scores do not come from a refiner alone."""
        return self.num_classes

    @property
    def refined_classes(self) -> tuple[int, ...]:
        """Classes that a refiner decides; none for most networks."""
        return ()

    @property
    def frozen_sam(self) -> SamConfig | None:
        """SAM whose weights come from its own checkpoint, or None."""
        return None

    def adapted(
        self,
        window: tuple[int, int, int],
        spacing: tuple[float, float, float],
        num_classes: int,
        in_channels: int,
        chosen: Collection[str] = (),
    ) -> Self:
        """Return the configuration for a dataset.

        Args:
            window: (T, H, W) of the dataset's plan in voxels.
            spacing: mm along T, H, W.
            num_classes: number of foreground classes.
            in_channels: number of image channels.
            chosen: names of fields that the user has chosen and that must not be adapted.

        Raises:
            ValueError: a window would be a single token, or another field does not fit.
        """
        if self.every_slice:
            window = (self.window[0], *window[1:])
        slices, rows, columns = window
        # Normalisation over the coarsest map needs more than one voxel.
        if slices * rows * columns <= self.token_voxels**2:
            raise ValueError(
                f"a window of {slices} x {rows} x {columns} voxels is a single token: choose larger"
                " windows or smaller voxels"
            )
        return self.replace(window=window, num_classes=num_classes, in_channels=in_channels)

    def to_dict(self) -> dict[str, Any]:
        """Return the kind and the fields as plain types, for JSON."""
        return {"network": self.kind, **super().to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build a configuration from the plain types of :meth:`to_dict`.

        Raises:
            ValueError: a key is unknown; the message names it.
        """
        return super().from_dict({k: v for k, v in values.items() if k != "network"})


@dataclass(frozen=True)
class SamNetworkConfig(NetworkConfig):
    """Description of a network that adapts a SAM.

    Attributes:
        sam: shape of the SAM.
    """

    sam: SamConfig = SAM_CONFIGS["vit_b"]

    @property
    def image_size(self) -> tuple[int, int]:
        """Rows and columns of SAM's input in pixels."""
        return self.window[1], self.window[2]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens in a slice."""
        rows, columns = self.image_size
        return rows // self.sam.patch_size, columns // self.sam.patch_size

    @property
    def frozen_sam(self) -> SamConfig | None:
        """SAM whose weights come from its own checkpoint, or None if SAM is trained as well."""
        return self.sam if self.sam.frozen else None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build a configuration from the plain types of :meth:`to_dict`.

        Raises:
            KeyError: the SAM is missing.
            ValueError: a key is unknown; the message names it.
        """
        return super().from_dict({**values, "sam": SamConfig.from_dict(values["sam"])})


class WindowPrediction:
    """Prediction of a network for a batch of windows.

    Attributes:
        class_logits: (B, N, T, K + 2) of N queries, or None for a network without queries.
        boxes: (B, N, T, 4) boxes of the queries, or None for a network without queries.
    """

    class_logits: Tensor | None
    boxes: Tensor | None

    def semantic(self) -> Tensor:
        """Return the scores (B, K + 1, T, H, W) of the classes, background first."""
        raise NotImplementedError

    def unrefined(self) -> Tensor:
        """Return the scores of :meth:`semantic` without the decisions of a refiner."""
        return self.semantic()

    def shares(self) -> Tensor | None:
        """Return the shares (B, R + 1, T, H, W) of R refined classes in the refiner's voxels.

        The first share is that of all other classes together. The shares of a voxel sum to 1, or to
        0 where the refiner does not decide. None for a network without a refiner.
        """
        return None


@dataclass
class ClassScores(WindowPrediction):
    """Prediction of a network without queries.

    Attributes:
        scores: (B, K + 1, T, H, W) class probabilities, background first.
        class_logits: None.
        boxes: None.
    """

    scores: Tensor
    class_logits: None = None
    boxes: None = None

    def semantic(self) -> Tensor:
        """Return the scores (B, K + 1, T, H, W) of the classes, background first."""
        return self.scores


class Network(nn.Module):
    """Base class of all networks.

    Attributes:
        training_methods: names of the methods of a training step that ``torch.compile`` is applied
            to.
        config: description of the network.
        sam: SAM with the parameter names of the official checkpoints, or None.
    """

    training_methods: ClassVar[tuple[str, ...]] = ("encode",)

    config: NetworkConfig
    sam: Sam | None

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.sam = None

    def is_small(self, image: Tensor) -> bool | None:
        """Return whether an image shows too little to be segmented like other images.

        Args:
            image: (C, depth, rows, columns), a whole image in the voxels of the refined classes.

        Returns:
            None for a network without this distinction; otherwise the argument `small` of
            :meth:`encode`.
        """
        return None

    def encode(self, images: Tensor) -> Any:
        """Return the embedding of windows, from which masks are decoded.

        Args:
            images: (B, C, T, H, W), normalised as in the plan.
        """
        raise NotImplementedError

    def decode(self, embedding: Any, prompts: BoxPrompts | None = None) -> WindowPrediction:
        """Predict masks and classes from an embedding.

        Args:
            embedding: result of :meth:`encode`.
            prompts: boxes of the user, or None.
        """
        raise NotImplementedError

    def decode_likely(self, embedding: Any) -> WindowPrediction:
        """Predict without prompts, skipping queries that show almost nothing in these windows.

        Args:
            embedding: result of :meth:`encode`.
        """
        return self.decode(embedding)

    def decode_class(
        self, embedding: Any, class_logits: Tensor | None, prompts: BoxPrompts, class_index: int
    ) -> Tensor:
        """Return the scores (B, T, H, W) of one class from its boxes, as in :meth:`decode`.

        Args:
            embedding: result of :meth:`encode`.
            class_logits: (B, N, T, K + 2) of the prediction without boxes; None for a network
                without queries.
            prompts: boxes of the user, including those of the class.
            class_index: 1 to K.
        """
        return self.decode(embedding, prompts).semantic()[:, class_index]

    def forward(self, images: Tensor) -> WindowPrediction:
        """Predict masks and classes of images (B, C, T, H, W) without any prompt of the user."""
        return self.decode(self.encode(images))

    def check_window(self, images: Tensor) -> None:
        """Check that images have the shape of a batch of windows.

        Raises:
            ValueError: the images have another shape.
        """
        expected = (self.config.in_channels, *self.config.window)
        if tuple(images.shape[1:]) != expected:
            raise ValueError(
                f"expected windows of shape (channels, T, H, W) = {expected},"
                f" not {tuple(images.shape[1:])}"
            )

    @property
    def has_gradient_checkpointing(self) -> bool:
        """True if parts of the network support gradient checkpointing."""
        return any(isinstance(part, Checkpointed) for part in self.modules())

    def set_gradient_checkpointing(self, active: bool) -> None:
        """Recompute the activations of large parts in the backward pass, or keep them.

        Raises:
            ValueError: no part of the network supports gradient checkpointing.
        """
        if active and not self.has_gradient_checkpointing:
            raise ValueError(f"the network '{self.config.kind}' has no gradient checkpointing")
        for part in self.modules():
            if isinstance(part, Checkpointed):
                part.gradient_checkpointing = active

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """Return all trained parameters by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def decoder_parameters(self) -> list[nn.Parameter]:
        """Return the trained parameters that do not affect the proposals of a prompt generator;
        none for a network without a prompt generator."""
        return []

    def freeze_proposals(self) -> None:
        """Exclude all but the decoder from training.

        Raises:
            ValueError: the network has no prompt generator.
        """
        decoder = {id(parameter) for parameter in self.decoder_parameters()}
        if not decoder:
            raise ValueError(f"the network '{self.config.kind}' has no prompt generator")
        for parameter in self.parameters():
            parameter.requires_grad_(id(parameter) in decoder)

    def reset_decoder(self) -> None:
        """Undo the effect of a decoder that was trained with another prompt generator."""

    def kept_names(self) -> list[str]:
        """Return the names of the tensors to save, each tensor once, without the weights that come
        from the checkpoint of a frozen SAM."""
        state = set(self.state_dict())
        names = [name for name, _ in self.named_parameters()]
        names += [name for name, _ in self.named_buffers()]
        if self.config.frozen_sam is not None:
            trained = self.trained_parameters()
            names = [name for name in names if not name.startswith("sam.") or name in trained]
        return [name for name in names if name in state]
