"""Precision and strategy for each kind of device, and devices that are not available."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import torch

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.inference import device as inference_device
from MaskSAMCore.training import devices
from MaskSAMCore.training.devices import accelerator, precision, strategy


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({}, "32-true"),
        ({"avx2": True, "avx512_f": True, "amx_bf16": False, "avx512_bf16": False}, "32-true"),
        ({"amx_bf16": True}, "bf16-mixed"),
        ({"amx_bf16": False, "avx512_bf16": True}, "bf16-mixed"),
    ],
)
def test_a_cpu_computes_in_bf16_only_where_it_has_instructions_for_it(
    capabilities: dict[str, bool], expected: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    monkeypatch.setattr(inference_device, "onednn_has_bfloat16", lambda: True)
    assert precision("cpu") == expected


def test_a_cpu_computes_in_float32_with_a_pytorch_that_lists_no_capabilities(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert precision("cpu") == "32-true"


@pytest.mark.parametrize(("native", "expected"), [(True, "bf16-mixed"), (False, "16-mixed")])
def test_a_gpu_computes_in_bf16_only_if_it_does_so_natively(
    native: bool, expected: str, monkeypatch: pytest.MonkeyPatch
):
    def emulating(including_emulation: bool = True) -> bool:
        return native or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", emulating)
    assert precision("cuda") == expected

    def older() -> bool:
        return native

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", older)
    assert precision("cuda") == expected


def test_an_apple_gpu_computes_in_float32():
    assert precision("mps") == "32-true"


def gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.parametrize(
    ("count", "wanted", "message"),
    [
        (0, ("cuda", 1), "device 'cuda' is not available here: choose auto or cpu"),
        (0, ("warp", 1), "device 'warp' is not available here: choose auto or cpu"),
        (2, ("auto", 3), "there are no 3 devices 'cuda' here, only 2"),
    ],
)
def test_unavailable_devices_are_refused(
    count: int, wanted: tuple[Any, ...], message: str, monkeypatch: pytest.MonkeyPatch
):
    gpus(monkeypatch, count)
    with pytest.raises(MaskSAMError, match=message):
        accelerator(*wanted)


def test_auto_takes_the_first_available_device(monkeypatch: pytest.MonkeyPatch):
    gpus(monkeypatch, 0)
    assert accelerator("auto", 4) == "cpu"
    gpus(monkeypatch, 2)
    assert accelerator("auto", 2) == "cuda"
    assert accelerator("cpu") == "cpu"


def test_processes_wait_for_each_other_through_long_validations(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(devices, "DDPStrategy", dict)
    assert strategy("cpu", 2)["timeout"] > timedelta(hours=12)
    assert strategy("cpu", 1) == "auto"
