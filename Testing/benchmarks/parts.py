"""Dice of a MaskSAM with each of its parts switched off, without retraining.

    python -m Testing.benchmarks.parts DATASET --splits splits.json --side val -m hippocampus

Each part is switched off in a copy of the model, whose results are scored without boxes and with a
true box of each class on each slice. The figures show what the trained weights rely on, not what a
network trained without the part would reach.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from MaskSAMCore.data.dataset import load_cases, open_dataset
from MaskSAMCore.inference import MaskSegmenter
from MaskSAMCore.modeling import MaskSAM
from Testing.benchmarks.prompts import AuxiliaryOnly, engine_of, measure, slice_boxes

# Positions of the arguments of the decoder's ``forward``.
_MAPS, _PROMPTS, _GENERATOR_MAPS = 2, 3, 5


def without_adapters(part: str) -> Callable[[MaskSAM], None]:
    """Return a function that disables the adapters of the encoder or the decoder."""

    def switch_off(model: MaskSAM) -> None:
        for name, parameter in model.get_submodule(part).named_parameters():
            if ".up." in name:
                torch.nn.init.zeros_(parameter)

    return switch_off


def without_transformer(model: MaskSAM) -> None:
    """Zero the image encoder's outputs, for the prompt generator and the decoder."""

    def change(_module: Any, _arguments: Any, features: Any) -> Any:
        taps = [torch.zeros_like(tap) for tap in features.taps]
        return replace(features, neck=torch.zeros_like(features.neck), taps=taps)

    model.encoder.register_forward_hook(change)


def without_pyramid(model: MaskSAM) -> None:
    """Zero the channel adapter's maps for the prompt generator."""

    def change(_module: Any, arguments: Any) -> Any:
        (features,) = arguments
        return (replace(features, maps=[torch.zeros_like(m) for m in features.maps]),)

    model.generator.register_forward_pre_hook(change)


def without_maps(position: int) -> Callable[[MaskSAM], None]:
    """Return a function that zeros the maps at a position of the decoder's arguments."""

    def change(_module: Any, arguments: Any) -> Any:
        changed = list(arguments)
        changed[position] = [torch.zeros_like(m) for m in changed[position]]
        return tuple(changed)

    return lambda model: _before_decoder(model, change)


def with_prompts(change: Callable[[Any], dict[str, Tensor | None]]) -> Callable[[MaskSAM], None]:
    """Return a function that changes fields of the prompts that the decoder receives."""

    def changed(_module: Any, arguments: Any) -> Any:
        prompts = arguments[_PROMPTS]
        return (
            *arguments[:_PROMPTS],
            replace(prompts, **change(prompts)),
            *arguments[_PROMPTS + 1 :],
        )

    return lambda model: _before_decoder(model, changed)


def _before_decoder(model: MaskSAM, change: Callable[[Any, Any], Any]) -> None:
    model.decoder.register_forward_pre_hook(change)


def whole_window(prompts: Any) -> dict[str, Tensor | None]:
    """Return box corners of the whole window."""
    return {"boxes": torch.tensor([0.0, 0.0, 1.0, 1.0]).expand_as(prompts.boxes)}


PARTS: dict[str, Callable[[MaskSAM], None]] = {
    "as shipped": lambda model: None,
    "adapters of the encoder": without_adapters("encoder"),
    "adapters of the decoder": without_adapters("decoder"),
    "ViT": without_transformer,
    "convolutional pyramid for the generator": without_pyramid,
    "convolutional pyramid for the decoder": without_maps(_MAPS),
    "generator's maps for the decoder": without_maps(_GENERATOR_MAPS),
    "mask prompts": with_prompts(lambda prompts: {"masks": None}),
    "box corners (the whole window instead)": with_prompts(whole_window),
    "mask prompts and box corners": with_prompts(lambda p: {"masks": None, **whole_window(p)}),
    "auxiliary class tokens": with_prompts(
        lambda prompts: {"class_tokens": torch.zeros_like(prompts.class_tokens)}
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--splits", type=Path, required=True)
    parser.add_argument("--side", default="val")
    parser.add_argument("-m", "--model", default="hippocampus")
    options = parser.parse_args()
    names = json.loads(options.splits.read_text(encoding="utf-8"))[options.side]
    cases = load_cases(open_dataset(options.dataset), names)
    segmenter = MaskSegmenter.from_model(options.model)
    classes = [label.name for label in segmenter.labels]
    turn = segmenter.plan.orientation
    draws: dict[str, Any] = {
        "automatic": None,
        "slices": lambda case: slice_boxes(case, classes, turn),
    }
    print(f"{len(cases)} {options.side} cases, mean Dice: automatic, true boxes on each slice")

    def show(name: str, wrapper: Callable[[Any], Any]) -> None:
        found = measure(engine_of(segmenter, wrapper), cases, draws)
        print(f"{name:42s} " + " ".join(f"{found[mode].mean():.4f}" for mode in draws), flush=True)

    for name, switch_off in PARTS.items():

        def switched(model: Any, switch_off: Callable[[MaskSAM], None] = switch_off) -> Any:
            changed = copy.deepcopy(model)
            switch_off(changed)
            return changed

        show(name, switched)
    show("decoder's masks (the generator's instead)", AuxiliaryOnly)


if __name__ == "__main__":
    main()
