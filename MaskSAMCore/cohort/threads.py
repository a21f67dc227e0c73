"""Number of CPU cores that a process uses."""

from __future__ import annotations


def limit_threads(threads: int) -> None:
    """Use a number of CPU cores for the network and for images."""
    import SimpleITK as sitk
    import torch

    torch.set_num_threads(threads)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
