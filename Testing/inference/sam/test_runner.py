"""Encoding of slices when the memory of a device runs out."""

import pytest
import torch

from MaskSAMCore.errors import OutOfMemory
from MaskSAMCore.inference.device import DeviceChoice
from MaskSAMCore.inference.sam.runner import SamRunner
from Testing.helpers.sam_reference import small_sam, synthetic_slice


def test_a_slice_is_encoded_on_the_cpu_when_the_memory_of_another_device_runs_out():
    model, grey, used = small_sam(), synthetic_slice(48, 64), []
    encode = model.encode

    def encode_on_the_cpu_only(image: torch.Tensor, each_block: object) -> torch.Tensor:
        used.append(image.device.type)
        if image.device.type != "cpu":
            raise torch.cuda.OutOfMemoryError("out of memory")
        return encode(image)

    model.encode = encode_on_the_cpu_only  # type: ignore[method-assign,assignment]
    model.to = lambda device: used.append(f"to {device}")  # type: ignore[method-assign,assignment]
    # PyTorch's meta device takes the place of a GPU, which not every machine has.
    runner = SamRunner(model, "sam", DeviceChoice(torch.device("meta"), "a small one"))
    embedding = runner.encode(grey, lambda: None)
    assert used == ["to meta", "meta", "to cpu", "cpu"] and embedding.shape == (1, 32, 4, 4)
    assert runner.memory.notes == ["meta ran out of memory: continuing on the CPU"]
    assert str(runner.memory.choice) == "cpu (meta ran out of memory)"


def test_a_slice_that_does_not_fit_into_the_cpus_memory_is_an_error():
    model = small_sam()

    def fail(*_: object) -> torch.Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    model.encode = fail  # type: ignore[method-assign,assignment]
    runner = SamRunner(model, "sam", DeviceChoice(torch.device("cpu"), "as requested"))
    with pytest.raises(OutOfMemory, match="too small for one slice"):
        runner.encode(synthetic_slice(48, 64), lambda: None)
