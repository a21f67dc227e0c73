"""Estimator of the Dice for the model that a training has made."""

from __future__ import annotations

from pathlib import Path

from MaskSAMCore.data.dataset import examine_dataset
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.models import Bundle
from MaskSAMCore.quality.bundles import ResultsCallback, SampleRequest, fit_bundle
from MaskSAMCore.training.run_folder import TrainingRecord


def fit_to_validation(
    run: Path,
    bundle: Bundle,
    results: int,
    dataset: Path | None = None,
    device: str = "auto",
    report: ResultsCallback | None = None,
) -> Path:
    """Fit the estimator of an exported bundle to the run's validation cases, and return its file.

    Args:
        run: folder of the training.
        bundle: bundle that was exported from it.
        results: number of results to fit to.
        dataset: folder of the dataset; None for the one in the run's record.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        report: receives the progress.

    Raises:
        MaskSAMError: the dataset is missing or has problems, or there are too few cases.
    """
    record = TrainingRecord.load(run)
    folder = dataset or Path(record.folder)
    if not (dataset or record.folder) or not folder.is_dir():
        raise MaskSAMError(
            f"the dataset of the training is not at {folder}: give its folder with --dataset"
        )
    found, problems = examine_dataset(folder, record.label_description)
    if problems:
        raise MaskSAMError("; ".join(problems))
    request = SampleRequest(found, record.split["val"], results, record.seed)
    file, _ = fit_bundle(bundle.folder, request, device, report)
    return file
