"""Private folder through which volumes go to the worker and labelmaps come back."""

from __future__ import annotations

import errno
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from MaskSAMCore.geometry import Volume
from MaskSAMCore.worker.protocol import (
    MAX_SESSIONS,
    Correction,
    ExportDicomParams,
    ImageFile,
    KeepCorrectionsParams,
    LabelmapFile,
    SegmentParams,
)
from MaskSAMSlicerLib.worker.jobs import (
    CorrectedCase,
    ExportDicomRequest,
    SegmentRequest,
    WorkerError,
)
from MaskSAMSlicerLib.worker.private_folder import create_private_folder

# Bytes that are written, or compared, between two checks for cancellation.
_PIECE_BYTES = 8 << 20


class SharedFiles:
    """Raw files of volumes and labelmaps; safe to use from several threads.

    The lock is never held while a file is read or written, so that no call waits for the file
    access of another.

    Attributes:
        folder: folder that only this process and its worker use.

    Raises:
        OSError: there is no place for temporary files.
    """

    def __init__(self) -> None:
        self.folder = create_private_folder()
        self._lock = threading.Lock()
        self._written = 0
        self._files: set[Path] = set()
        self._used_by_request: dict[int, list[Path]] = {}
        self._sessions: dict[str, list[ImageFile]] = {}

    def ensure_folder(self) -> Path:
        """Return the folder; create it again if a cleaner of temporary files has removed it."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        return self.folder

    def share(
        self, number: int, request: SegmentRequest, cancelled: Callable[[], bool]
    ) -> SegmentParams:
        """Write the volumes of a request, and return its parameters.

        A session's volume is not written again if it has not changed.

        Args:
            number: id of the request.
            request: volumes and options.
            cancelled: function that returns whether to stop.

        Raises:
            WorkerError: the disk is full or cannot be written, a volume is not numeric, or the
                request was cancelled.
        """
        if not request.volumes:
            raise WorkerError("refused", "there is no volume to segment")
        with self._lock:
            known = self._sessions.get(request.session or "", [])
            # The session's files stay while they are compared.
            used = self._used_by_request[number] = [Path(image.path) for image in known]
        images = []
        for index, volume in enumerate(request.volumes):
            array = _native(volume.array)
            previous = known[index] if index < len(known) else None
            if previous is None or not _is_same(array, previous, cancelled):
                path = self._write(array, used, cancelled)
            else:
                path = Path(previous.path)
            images.append(_image_file(path, array, volume))
        with self._lock:
            if cancelled():  # the session may have been forgotten
                raise WorkerError.cancelled()
            output = self._new_path("labelmap")
            used[:] = [*(Path(image.path) for image in images), output]
            if request.session:
                self._sessions.pop(request.session, None)
                self._sessions[request.session] = images
                while len(self._sessions) > MAX_SESSIONS:
                    del self._sessions[next(iter(self._sessions))]
        model = Path(request.model)
        return SegmentParams(
            images=tuple(images),
            model=str(model.absolute() if model.exists() else request.model),
            output=str(output),
            roi=request.roi,
            boxes=tuple(request.boxes),
            device=request.device,
            tta=request.tta,
            session=request.session,
            resume=request.resume,
            overwrite=request.overwrite,
            resample=request.resample,
        )

    def share_labelmap(self, number: int, request: ExportDicomRequest) -> ExportDicomParams:
        """Write the labelmap of a request, and return its parameters.

        Args:
            number: id of the request.
            request: labelmap with its geometry, classes and source series.

        Raises:
            WorkerError: the disk is full or cannot be written.
        """
        labelmap = _native(request.labelmap)
        with self._lock:
            used: list[Path] = []
            self._used_by_request[number] = used
        path = self._write(labelmap, used, lambda: False)
        k, j, i = labelmap.shape
        return ExportDicomParams(
            labelmap=LabelmapFile(str(path), (k, j, i), labelmap.dtype.str),
            ijk_to_ras=tuple(tuple(row) for row in request.ijk_to_ras.tolist()),
            labels=tuple(request.labels),
            source=tuple(str(path.absolute()) for path in request.source),
            instances=tuple(request.instances),
            model=request.model,
            version=request.version,
            corrected=request.corrected,
            output=str(request.output.absolute()),
            report=None if request.report is None else str(request.report.absolute()),
        )

    def share_corrections(
        self, number: int, cases: Sequence[CorrectedCase], folder: Path, channels: Sequence[str]
    ) -> KeepCorrectionsParams:
        """Write corrected cases, and return the parameters of a request to keep them.

        Args:
            number: id of the request.
            cases: cases to keep.
            folder: folder to which the worker adds the cases.
            channels: names of the channels; empty if they are unknown.

        Raises:
            WorkerError: the disk is full or cannot be written, or a volume is not numeric.
        """
        with self._lock:
            used: list[Path] = []
            self._used_by_request[number] = used

        def write(array: np.ndarray) -> Path:
            return self._write(array, used, lambda: False)

        corrections = []
        for case in cases:
            arrays = [_native(volume.array) for volume in case.channels]
            images = tuple(
                _image_file(write(array), array, volume)
                for array, volume in zip(arrays, case.channels, strict=True)
            )
            k, j, i = case.labelmap.shape
            labelmap = LabelmapFile(str(write(case.labelmap)), (k, j, i), case.labelmap.dtype.str)
            corrections.append(
                Correction(case.name, images, labelmap, tuple(case.labels), tuple(case.checked))
            )
        folder = folder.absolute()
        return KeepCorrectionsParams(str(folder), tuple(channels), tuple(corrections))

    def read_labelmap(self, file: LabelmapFile) -> np.ndarray:
        """Read a labelmap into memory, as integers [K, J, I].

        Raises:
            WorkerError: the file is not as the worker described it.
        """
        try:
            return np.fromfile(file.path, dtype=np.dtype(file.dtype)).reshape(file.shape)
        except (OSError, TypeError, ValueError) as error:
            text = f"the labelmap of the segmentation process cannot be read: {error}"
            raise WorkerError("internal", text) from error

    def forget_session(self, session: str) -> None:
        """Remove the files of a session."""
        with self._lock:
            self._sessions.pop(session, None)
            self._remove_unused()

    def release(self, number: int) -> None:
        """Remove the files of a request that has ended, except those of a session."""
        with self._lock:
            self._used_by_request.pop(number, None)
            self._remove_unused()

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _new_path(self, kind: str) -> Path:
        self._written += 1
        path = self.folder / f"{kind}-{self._written}.raw"
        self._files.add(path)
        return path

    def _write(self, array: np.ndarray, used: list[Path], cancelled: Callable[[], bool]) -> Path:
        with self._lock:
            path = self._new_path("volume")
            used.append(path)
        try:
            self.ensure_folder()
            with open(path, "wb") as stream:
                for part in _pieces(array):
                    if cancelled():
                        raise WorkerError.cancelled()
                    stream.write(np.ascontiguousarray(array[part]).data)
        except OSError as error:
            reason = "the disk is full" if error.errno == errno.ENOSPC else str(error.strerror)
            raise WorkerError(
                "refused",
                f"the volume cannot be passed to the segmentation process: {reason}"
                f" ({self.folder.parent}): free some space there and try again",
            ) from error
        return path

    def _remove_unused(self) -> None:
        used = {path for paths in self._used_by_request.values() for path in paths}
        used |= {Path(image.path) for images in self._sessions.values() for image in images}
        for path in self._files - used:
            try:
                path.unlink(missing_ok=True)
                # A worker that was killed may have left its temporary file.
                path.with_name(f".{path.name}.part").unlink(missing_ok=True)
            except OSError:
                continue  # Windows keeps a mapped file; the next call tries again
            self._files.discard(path)


def _native(array: np.ndarray) -> np.ndarray:
    """Return an array of a type that the worker can memory-map.

    Raises:
        WorkerError: the array is empty or not numeric.
    """
    if array.dtype.kind not in "biuf" or array.size == 0:
        raise WorkerError(
            "refused",
            f"a volume needs three axes of numbers: this one is {array.shape} of {array.dtype}",
        )
    if array.dtype.itemsize > 8:
        return array.astype(np.float64)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _pieces(array: np.ndarray) -> list[slice]:
    slices = max(1, _PIECE_BYTES // max(1, array[0].nbytes))
    return [slice(first, first + slices) for first in range(0, len(array), slices)]


def _is_same(array: np.ndarray, image: ImageFile, cancelled: Callable[[], bool]) -> bool:
    """Return whether an image file holds exactly these voxels."""
    if array.shape != image.shape or array.dtype.str != image.dtype:
        return False
    try:
        kept = np.memmap(image.path, dtype=array.dtype, mode="r", shape=array.shape)
    except (OSError, ValueError):
        return False
    for part in _pieces(array):
        if cancelled():
            raise WorkerError.cancelled()
        # Bytes are compared, so that NaN equals NaN and nothing is converted.
        if np.ascontiguousarray(array[part]).tobytes() != kept[part].tobytes():
            return False
    return True


def _image_file(path: Path, array: np.ndarray, volume: Volume) -> ImageFile:
    rows = tuple(tuple(row) for row in volume.ijk_to_ras.tolist())
    return ImageFile(str(path), volume.shape, array.dtype.str, rows, volume.name, volume.modality)
