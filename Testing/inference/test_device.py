"""Choice of a device, mixed precision, and the fallback when memory runs out."""

import errno

import pytest
import torch

from MaskSAMCore.errors import MaskSAMError, OutOfMemory, is_out_of_memory
from MaskSAMCore.inference import device
from MaskSAMCore.inference.device import (
    DeviceChoice,
    MemoryFallback,
    choose_device,
    mixed_precision,
    network_operations,
)
from MaskSAMCore.inference.parallel import cpu_threads


def test_auto_chooses_a_device_that_works_and_gives_the_reason():
    choice = choose_device()
    torch.zeros(1, device=choice.device)
    assert choice.reason
    assert choice.reason in str(choice)
    assert choose_device("cpu").device == torch.device("cpu")


@pytest.mark.parametrize("wanted", ["gpu", "cpu:1", "cuda:x", ""])
def test_an_unknown_device_is_refused_with_the_known_ones(wanted):
    with pytest.raises(MaskSAMError, match="choose one of auto, cpu, cuda, mps"):
        choose_device(wanted)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_an_absent_gpu_is_refused_with_the_reason():
    with pytest.raises(MaskSAMError, match=r"'cuda' cannot be used: .*GPU.*choose auto or cpu"):
        choose_device("cuda")


@pytest.fixture
def apple_gpu(monkeypatch):
    """Make PyTorch report an Apple GPU, on which every operation fails on this machine."""
    monkeypatch.setattr(torch.backends.mps, "is_built", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    device._failure_on_mps.cache_clear()
    yield
    device._failure_on_mps.cache_clear()


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="this machine has an Apple GPU")
def test_an_apple_gpu_that_cannot_run_the_networks_is_not_chosen_and_the_reason_is_given(apple_gpu):
    choice = choose_device("auto")
    assert choice.device == torch.device("cpu")
    assert "the networks do not run on this Apple GPU (PyTorch 2" in choice.reason
    assert "\n" not in choice.reason
    with pytest.raises(MaskSAMError, match=r"'mps' cannot be used: the networks do not run"):
        choose_device("mps")


def test_an_apple_gpu_that_computes_wrong_values_is_not_chosen(apple_gpu, monkeypatch):
    results = {"mps": torch.zeros(1), "cpu": torch.ones(1)}
    monkeypatch.setattr(device, "network_operations", lambda device: results[device.type])
    assert "computes wrong values" in choose_device("auto").reason


def test_an_apple_gpu_that_computes_like_the_cpu_is_chosen(apple_gpu, monkeypatch):
    example = network_operations(torch.device("cpu"))
    assert example.isfinite().all() and example.std() > 0.01
    monkeypatch.setattr(device, "network_operations", lambda _device: example)
    assert choose_device("auto") == DeviceChoice(torch.device("mps"), "Apple GPU")


@pytest.mark.parametrize(
    ("capabilities", "onednn", "dtype"),
    [
        ({}, True, torch.float32),
        ({"amx_bf16": True}, True, torch.bfloat16),
        ({"avx2": True}, True, torch.float32),
        ({"amx_bf16": True}, False, torch.float32),
    ],
)
def test_a_cpu_computes_in_bfloat16_only_if_it_and_onednn_have_the_units(
    monkeypatch, capabilities, onednn, dtype
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    monkeypatch.setattr(device, "onednn_has_bfloat16", lambda: onednn)
    with mixed_precision(torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_out_of_memory_is_distinguished_from_other_errors():
    assert is_out_of_memory(torch.cuda.OutOfMemoryError("x"))
    assert is_out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 3 GB)"))
    assert is_out_of_memory(MemoryError())
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(RuntimeError("std::bad_alloc"))
    assert is_out_of_memory(ImportError("libx.so: failed to map segment: Cannot allocate memory"))
    assert is_out_of_memory(OSError(errno.ENOMEM, "Cannot allocate memory"))
    assert is_out_of_memory(OSError(errno.EINVAL, "The paging file is too small"))
    assert not is_out_of_memory(FileNotFoundError(errno.ENOENT, "no file", "out of memory.nrrd"))
    assert not is_out_of_memory(RuntimeError("sizes do not match"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_memory_fallback_halves_the_batches_then_moves_to_the_cpu_and_then_gives_up():
    moved: list[str] = []
    memory = MemoryFallback(
        DeviceChoice(torch.device("mps"), "Apple GPU"),
        lambda device: moved.append(device.type),
        "window",
        batch_size=4,
    )
    attempts: list[tuple[str, int]] = []
    notified: list[str] = []

    def work(most: int) -> str:
        attempts.append((memory.choice.device.type, memory.batch_size))
        if len(attempts) < most:
            raise RuntimeError("MPS backend out of memory")
        return "done"

    assert memory.run(lambda: work(most=4), notified.append) == "done"
    assert attempts == [("mps", 4), ("mps", 2), ("mps", 1), ("cpu", 1)]
    assert moved == ["mps", "cpu"]
    assert str(memory.choice) == "cpu (mps ran out of memory)"
    assert notified == memory.notes
    assert memory.notes == [
        "mps ran out of memory: continuing with 2 window(s) at a time",
        "mps ran out of memory: continuing with 1 window(s) at a time",
        "mps ran out of memory: continuing on the CPU",
    ]
    with pytest.raises(OutOfMemory, match="too small for one window of this model"):
        memory.run(lambda: work(most=9))


def test_an_operation_that_fails_on_an_apple_gpu_is_repeated_on_the_cpu_with_a_note():
    choice, moved = DeviceChoice(torch.device("mps"), "Apple GPU"), []
    memory = MemoryFallback(choice, moved.append, "window", batch_size=4)

    def work() -> str:
        if memory.choice.device.type == "mps":
            raise NotImplementedError("The operator 'aten::x' is not implemented\nas a note")
        return "done"

    assert memory.run(work) == "done"
    assert [device.type for device in moved] == ["mps", "cpu"]
    assert str(memory.choice) == "cpu (the Apple GPU failed)"
    assert memory.batch_size == min(4, cpu_threads())
    assert memory.notes == [
        "the Apple GPU failed (The operator 'aten::x' is not implemented): continuing on the CPU"
    ]


def test_memory_fallback_passes_other_errors_on():
    memory = MemoryFallback(choose_device("cpu"), lambda device: None, "slice")

    def fail() -> None:
        raise RuntimeError("sizes do not match")

    with pytest.raises(RuntimeError, match="sizes do not match"):
        memory.run(fail)
    assert memory.notes == []
