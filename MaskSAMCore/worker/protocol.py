"""Messages between Slicer and its segmentation process, imported at both ends of the pipe.

Every message is a JSON-RPC 2.0 object on one line, in UTF-8. Each class below is the content of one
message. `to_json` and `from_json` define the field names on the pipe, and `from_json` raises a
ProtocolError if a field is missing or of a wrong type. The module imports neither PyTorch nor
SciPy, because Slicer's own process imports it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any, ClassVar

from MaskSAMCore.geometry import Box
from MaskSAMCore.labels import Label

# Increased whenever an older program at the other end could misread a message.
PROTOCOL_VERSION = 1
MAX_MESSAGE_BYTES = 16 << 20
# Largest number of volumes that the worker keeps open, and whose files the client keeps.
MAX_SESSIONS = 3

# Methods that are answered at once, even while a job runs.
INITIALIZE, PING, CANCEL, SHUTDOWN = "initialize", "ping", "cancel", "shutdown"
# Methods whose jobs run one after another.
SEGMENT, CLOSE_SESSION, DEVICES = "segment", "close_session", "devices"
DOWNLOAD, ADD_MODEL, REMOVE_MODEL = "download", "add_model", "remove_model"
EXPORT_DICOM = "export_dicom"
KEEP_CORRECTIONS, ADAPT = "keep_corrections", "adapt"
# Notifications that the worker sends.
PROGRESS, LOG, VALIDATION = "progress", "log", "validation"


class ErrorCode(IntEnum):
    """Codes of error answers: JSON-RPC's own, and those of this protocol, -32000 to -32004."""

    PARSE_ERROR = -32700
    INVALID_REQUEST = -32600
    METHOD_NOT_FOUND = -32601
    INVALID_PARAMS = -32602
    INTERNAL_ERROR = -32603
    REFUSED = -32000
    OTHER_PROTOCOL = -32001
    CANCELLED = -32002
    OUT_OF_MEMORY = -32003
    CANNOT_RESUME = -32004


class ProtocolError(Exception):
    """A message whose fields are missing or of a wrong type."""


class RequestError(Exception):
    """An error that answers a request.

    Attributes:
        code: an `ErrorCode`, or an unknown number from another version.
        message: one line for the user.
        traceback: traceback for the log; empty if there is none.
    """

    def __init__(self, code: int, message: str, traceback: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.traceback = traceback

    def to_json(self) -> dict[str, Any]:
        """Return the `error` object of an answer."""
        value: dict[str, Any] = {"code": int(self.code), "message": self.message}
        if self.traceback:
            value["data"] = {"traceback": self.traceback}
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RequestError:
        """Return the error of an answer; unknown and missing fields are ignored."""
        code, data = value.get("code"), value.get("data")
        traceback = str(data.get("traceback", "")) if isinstance(data, dict) else ""
        return cls(code if isinstance(code, int) else 0, str(value.get("message") or ""), traceback)


@dataclass(frozen=True)
class Request:
    """A request, or a notification if it has no id."""

    method: str
    params: Mapping[str, Any]
    id: int | str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the request as a JSON object."""
        message: dict[str, Any] = {"method": self.method, "params": dict(self.params)}
        return message if self.id is None else {"id": self.id, **message}

    @classmethod
    def from_line(cls, line: bytes) -> Request:
        """Read a request from its line.

        Raises:
            RequestError: the line holds no request.
        """
        try:
            message = json.loads(line.decode("utf-8"))
        except ValueError as error:
            text = f"this line is not JSON: {error}"
            raise RequestError(ErrorCode.PARSE_ERROR, text) from error
        if not isinstance(message, dict) or not isinstance(message.get("method"), str):
            text = "a message must be an object with a method"
            raise RequestError(ErrorCode.INVALID_REQUEST, text)
        params, number = message.get("params", {}), message.get("id")
        if not isinstance(params, dict):
            raise RequestError(ErrorCode.INVALID_PARAMS, "params must be an object")
        if number is not None and not isinstance(number, (int, str)):
            raise RequestError(ErrorCode.INVALID_REQUEST, "an id must be a number or a string")
        return cls(message["method"], params, number)


def encode_line(message: Mapping[str, Any]) -> bytes:
    """Return a message as one line of UTF-8."""
    line = json.dumps({"jsonrpc": "2.0", **message}, ensure_ascii=False) + "\n"
    return line.encode("utf-8", "backslashreplace")


@dataclass(frozen=True)
class InitializeParams:
    """First message of a client.

    Attributes:
        folder: private folder of the client for shared files; None if it has none.
        protocol: protocol version of the client, which may be of any type in another version.
        client: name of the client.
    """

    folder: str | None
    protocol: object = PROTOCOL_VERSION
    client: str = "MaskSAMSlicer"

    def to_json(self) -> dict[str, Any]:
        """Return the `params` of ``initialize``."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> InitializeParams:
        """Read the `params` of ``initialize``."""
        folder = value.get("folder")
        return cls(
            str(folder) if folder else None, value.get("protocol"), str(value.get("client", ""))
        )


@dataclass(frozen=True)
class InitializeResult:
    """Answer to the first message.

    Attributes:
        protocol: protocol version of the worker, which may be of any type in another version.
        version: version of MaskSAM.
        pid: process number of the worker itself, not of its launcher; None if unknown.
    """

    protocol: object
    version: str = ""
    pid: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the `result` of ``initialize``."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> InitializeResult:
        """Read the `result` of ``initialize``."""
        pid = value.get("pid")
        return cls(
            value.get("protocol"),
            str(value.get("version", "")),
            pid if isinstance(pid, int) else None,
        )


@dataclass(frozen=True)
class ImageFile:
    """A raw file with the voxels of an image.

    Attributes:
        path: absolute path.
        shape: number of voxels along K, J, I.
        dtype: NumPy's code of the voxel type, such as "<i2".
        ijk_to_ras: rows of the 4 x 4 matrix from voxel indices to RAS in mm.
        name: name shown to the user.
        modality: DICOM modality, such as "MR"; empty if unknown.
    """

    path: str
    shape: tuple[int, int, int]
    dtype: str
    ijk_to_ras: tuple[tuple[float, ...], ...]
    name: str = ""
    modality: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the object on the pipe."""
        return {
            "path": self.path,
            "shape": list(self.shape),
            "dtype": self.dtype,
            "ijk_to_ras": [list(row) for row in self.ijk_to_ras],
            "name": self.name,
            "modality": self.modality,
        }

    @classmethod
    def from_json(cls, value: Any) -> ImageFile:
        """Read the object on the pipe."""
        with _reading("an image"):
            k, j, i = (int(n) for n in value["shape"])
            rows = tuple(tuple(float(x) for x in row) for row in value["ijk_to_ras"])
            name, modality = str(value.get("name", "")), str(value.get("modality", ""))
            return cls(str(value["path"]), (k, j, i), str(value["dtype"]), rows, name, modality)


@dataclass(frozen=True)
class LabelmapFile:
    """A raw file with the voxels of a labelmap.

    Attributes:
        path: absolute path.
        shape: number of voxels along K, J, I.
        dtype: NumPy's code of the voxel type, such as "|u1".
    """

    path: str
    shape: tuple[int, int, int]
    dtype: str

    def to_json(self) -> dict[str, Any]:
        """Return the object on the pipe."""
        return {"path": self.path, "shape": list(self.shape), "dtype": self.dtype}

    @classmethod
    def from_json(cls, value: Any) -> LabelmapFile:
        """Read the object on the pipe."""
        with _reading("a labelmap"):
            k, j, i = (int(n) for n in value["shape"])
            return cls(str(value["path"]), (k, j, i), str(value["dtype"]))


def box_to_json(box: Box) -> dict[str, Any]:
    """Return a box as the object on the pipe; edges are (i, j, k)."""
    return {"label": box.class_name, **_edges_to_json(box)}


def box_from_json(value: Any) -> Box:
    """Read a box from the object on the pipe."""
    with _reading("a box"):
        return _box(str(value.get("label") or ""), value)


@dataclass(frozen=True)
class SegmentParams:
    """Request to segment a volume.

    Attributes:
        images: channels of the volume, all on one grid unless `resample`.
        model: name in the catalog, or path of a bundle.
        output: path of the raw file for the labelmap.
        roi: region to process, in IJK voxel edges; None for the whole volume.
        boxes: boxes that prompt classes, in IJK voxel edges.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        tta: test-time augmentation, "none" or "mirror".
        session: key under which the worker keeps the volume open; None to close it at once.
        resume: True if the session should exist already; if it does not, the result has a note.
        overwrite: True lets classes with boxes take voxels of classes without boxes.
        resample: True resamples channels to the grid of the first one.
    """

    images: tuple[ImageFile, ...]
    model: str
    output: str
    roi: Box | None = None
    boxes: tuple[Box, ...] = ()
    device: str = "auto"
    tta: str = "none"
    session: str | None = None
    resume: bool = False
    overwrite: bool = False
    resample: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the `params` of ``segment``."""
        return {
            "images": [image.to_json() for image in self.images],
            "model": self.model,
            "output": self.output,
            "roi": None if self.roi is None else box_to_json(self.roi),
            "boxes": [box_to_json(box) for box in self.boxes],
            "device": self.device,
            "tta": self.tta,
            "session": self.session,
            "resume": self.resume,
            "overwrite": self.overwrite,
            "resample": self.resample,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> SegmentParams:
        """Read the `params` of ``segment``."""
        images, roi, session = value.get("images"), value.get("roi"), value.get("session")
        if not isinstance(images, list) or not images:
            raise ProtocolError("the parameter 'images' must be a list of images")
        with _reading("the list of boxes"):
            boxes = tuple(box_from_json(box) for box in value.get("boxes") or ())
        return cls(
            images=tuple(ImageFile.from_json(image) for image in images),
            model=_text(value, "model"),
            output=_text(value, "output"),
            roi=None if roi is None else box_from_json(roi),
            boxes=boxes,
            device=_text(value, "device", "auto"),
            tta=_text(value, "tta", "none"),
            session=None if session is None else str(session),
            resume=bool(value.get("resume", False)),
            overwrite=bool(value.get("overwrite", False)),
            resample=bool(value.get("resample", False)),
        )


@dataclass(frozen=True)
class ProposalMessage:
    """Bounding box that the network predicted for a class.

    Attributes:
        box: box in IJK voxel edges, with the name of the class.
        confidence: mean probability of the class over the slices of the box, 0 to 1.
    """

    box: Box
    confidence: float


@dataclass(frozen=True)
class InstanceMessage:
    """A class with at least one voxel in a segmentation.

    Attributes:
        value: integer of the class in the labelmap.
        name: name of the class.
        confidence: mean probability of the class over its voxels, 0 to 1.
        box: bounding box of the class's voxels, in IJK voxel edges.
        voxel_count: number of voxels.
        proposal: bounding box that the network predicted; None if it predicted none.
        expected_dice: expected Dice of the class; None if it was not estimated.
        expected_dice_low: bound that the Dice exceeds in nine cases of ten; None if it was not
            estimated.
        weakest_place: (i, j, k) in voxel edges, in the slice that the network is least sure of;
            None if it was not estimated.
    """

    value: int
    name: str
    confidence: float
    box: Box
    voxel_count: int
    proposal: ProposalMessage | None = None
    expected_dice: float | None = None
    expected_dice_low: float | None = None
    weakest_place: tuple[float, float, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the object on the pipe."""
        proposal = None
        if self.proposal is not None:
            score = self.proposal.confidence
            proposal = {**_edges_to_json(self.proposal.box), "score": score}
        return {
            "label": self.value,
            "name": self.name,
            "score": self.confidence,
            **_edges_to_json(self.box),
            "voxels": self.voxel_count,
            "proposal": proposal,
            "expected_dice": self.expected_dice,
            "expected_dice_low": self.expected_dice_low,
            "weakest_place": None if self.weakest_place is None else list(self.weakest_place),
        }

    @classmethod
    def from_json(cls, value: Any) -> InstanceMessage:
        """Read the object on the pipe."""
        with _reading("an instance"):
            name, proposal = str(value["name"]), None
            if value.get("proposal") is not None:
                box = _box(name, value["proposal"])
                proposal = ProposalMessage(box, float(value["proposal"]["score"]))
            return cls(
                int(value["label"]),
                name,
                float(value["score"]),
                _box(name, value),
                int(value["voxels"]),
                proposal,
                _optional_number(value, "expected_dice"),
                _optional_number(value, "expected_dice_low"),
                _optional_place(value, "weakest_place"),
            )


@dataclass(frozen=True)
class DeviceUsed:
    """Device of a computation.

    Attributes:
        name: PyTorch's name of the device, such as "cuda:0".
        reason: reason for the choice, in words.
    """

    name: str
    reason: str

    @classmethod
    def from_json(cls, value: Any) -> DeviceUsed:
        """Read the object on the pipe."""
        with _reading("a device"):
            return cls(str(value["name"]), str(value["reason"]))


@dataclass(frozen=True)
class SegmentResult:
    """Answer to a request to segment a volume.

    Attributes:
        labelmap_file: file of the labelmap, on the grid of the first image.
        labels: classes of the model, or of the boxes if the model has none.
        instances: classes with at least one voxel, in the order of the labels.
        device: device that the network ran on.
        notes: remarks for the user.
        seconds: duration of the job in seconds.
        intracranial: classes whose volumes add up to the intracranial volume; empty if unknown.
    """

    labelmap_file: LabelmapFile
    labels: tuple[Label, ...]
    instances: tuple[InstanceMessage, ...]
    device: DeviceUsed
    notes: tuple[str, ...]
    seconds: float
    intracranial: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the `result` of ``segment``."""
        return {
            "labelmap": self.labelmap_file.to_json(),
            "labels": [label.to_json() for label in self.labels],
            "instances": [instance.to_json() for instance in self.instances],
            "device": asdict(self.device),
            "notes": list(self.notes),
            "seconds": self.seconds,
            "intracranial": list(self.intracranial),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> SegmentResult:
        """Read the `result` of ``segment``."""
        with _reading("the result"):
            return cls(
                LabelmapFile.from_json(value["labelmap"]),
                tuple(Label.from_json(label) for label in value["labels"]),
                tuple(InstanceMessage.from_json(instance) for instance in value["instances"]),
                DeviceUsed.from_json(value["device"]),
                tuple(str(note) for note in value.get("notes", ())),
                float(value["seconds"]),
                tuple(str(name) for name in value.get("intracranial", ())),
            )


@dataclass(frozen=True)
class SessionParams:
    """Request to close a session.

    Attributes:
        session: key of the session.
    """

    session: str

    def to_json(self) -> dict[str, Any]:
        """Return the `params` of ``close_session``."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> SessionParams:
        """Read the `params` of ``close_session``."""
        return cls(_text(value, "session"))


@dataclass(frozen=True)
class AvailableDevice:
    """A device that the network can run on.

    Attributes:
        name: PyTorch's name of the device, such as "cuda:0".
        description: description for the user.
        reason: reason why "auto" selects this device if it is the CPU; empty otherwise.
    """

    name: str
    description: str
    reason: str = ""


@dataclass(frozen=True)
class DevicesResult:
    """Answer to a request for the devices.

    Attributes:
        choices: devices that the network can run on, the CPU first.
        auto: device that "auto" selects.
    """

    choices: tuple[AvailableDevice, ...]
    auto: DeviceUsed

    def to_json(self) -> dict[str, Any]:
        """Return the `result` of ``devices``."""
        return {"choices": [asdict(choice) for choice in self.choices], "auto": asdict(self.auto)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> DevicesResult:
        """Read the `result` of ``devices``."""
        with _reading("the list of devices"):
            choices = tuple(
                AvailableDevice(
                    str(one["name"]), str(one.get("description", "")), str(one.get("reason", ""))
                )
                for one in value["choices"]
            )
            return cls(choices, DeviceUsed.from_json(value["auto"]))


@dataclass(frozen=True)
class ModelParams:
    """Request to download or remove a model.

    Attributes:
        name: name of the model in the catalog.
    """

    name: str

    def to_json(self) -> dict[str, Any]:
        """Return the `params` of ``download`` and ``remove_model``."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ModelParams:
        """Read the `params` of ``download`` and ``remove_model``."""
        return cls(_text(value, "name"))


@dataclass(frozen=True)
class AddModelParams:
    """Request to add a model from disk.

    Attributes:
        path: absolute path of a bundle, or of official SAM weights.
    """

    path: str

    def to_json(self) -> dict[str, Any]:
        """Return the `params` of ``add_model``."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> AddModelParams:
        """Read the `params` of ``add_model``."""
        return cls(_text(value, "path"))


@dataclass(frozen=True)
class AddModelResult:
    """Answer to a request to add a model.

    Attributes:
        name: name of the model in the catalog.
        title: title of the model for the user.
    """

    name: str
    title: str

    def to_json(self) -> dict[str, Any]:
        """Return the `result` of ``add_model``."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> AddModelResult:
        """Read the `result` of ``add_model``."""
        return cls(_text(value, "name"), _text(value, "title"))


@dataclass(frozen=True)
class ExportDicomParams:
    """Request to write a labelmap as a DICOM segmentation.

    Attributes:
        labelmap: file of the labelmap, with the values of the labels and 0 elsewhere.
        ijk_to_ras: 4 x 4 matrix from voxel indices (i, j, k) of the labelmap to RAS in mm, in the
            space of the source series. A labelmap with the shape of the series is moved to the
            place of the series.
        labels: classes with their terminology codes.
        source: absolute paths of the files of the source series, or of a folder that holds them.
        instances: SOP instance UIDs of the images of the source series.
        model: name of the model that made the segmentation.
        version: version of the model; empty if unknown.
        corrected: whether the user prompted or corrected the segmentation.
        output: absolute path of the DICOM segmentation.
        report: absolute path of the report of the volumes; None for no report.
    """

    labelmap: LabelmapFile
    ijk_to_ras: tuple[tuple[float, ...], ...]
    labels: tuple[Label, ...]
    source: tuple[str, ...]
    instances: tuple[str, ...]
    model: str
    version: str
    corrected: bool
    output: str
    report: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the `params` of ``export_dicom``."""
        return {
            "labelmap": self.labelmap.to_json(),
            "ijk_to_ras": [list(row) for row in self.ijk_to_ras],
            "labels": [label.to_json() for label in self.labels],
            "source": list(self.source),
            "instances": list(self.instances),
            "model": self.model,
            "version": self.version,
            "corrected": self.corrected,
            "output": self.output,
            "report": self.report,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ExportDicomParams:
        """Read the `params` of ``export_dicom``."""
        with _reading("a DICOM segmentation to write"):
            report = value.get("report")
            return cls(
                LabelmapFile.from_json(value["labelmap"]),
                tuple(tuple(float(x) for x in row) for row in value["ijk_to_ras"]),
                tuple(Label.from_json(label) for label in value["labels"]),
                tuple(map(str, value["source"])),
                tuple(map(str, value["instances"])),
                _text(value, "model"),
                str(value.get("version", "")),
                bool(value.get("corrected")),
                _text(value, "output"),
                str(report) if report else None,
            )


@dataclass(frozen=True)
class Correction:
    """A case that the user has corrected.

    Attributes:
        name: name of the case, from which its file names are made.
        images: channels, all on one grid.
        labelmap: file of the labelmap on the grid of the images, 0 outside the classes.
        labels: classes with their values in the labelmap; a class may have no voxel.
        checked: names of the classes whose segmentation is right in this case.
    """

    name: str
    images: tuple[ImageFile, ...]
    labelmap: LabelmapFile
    labels: tuple[Label, ...]
    checked: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the object on the pipe."""
        return {
            "name": self.name,
            "images": [image.to_json() for image in self.images],
            "labelmap": self.labelmap.to_json(),
            "labels": [label.to_json() for label in self.labels],
            "checked": list(self.checked),
        }

    @classmethod
    def from_json(cls, value: Any) -> Correction:
        """Read the object on the pipe."""
        with _reading("a correction"):
            return cls(
                str(value["name"]),
                tuple(ImageFile.from_json(image) for image in value["images"]),
                LabelmapFile.from_json(value["labelmap"]),
                tuple(Label.from_json(label) for label in value["labels"]),
                tuple(map(str, value["checked"])),
            )


@dataclass(frozen=True)
class KeepCorrectionsParams:
    """Request to add corrected cases to a folder.

    Attributes:
        folder: absolute path of the folder, which need not exist yet.
        channels: names of the channels; empty if they are unknown.
        corrections: cases to add.
    """

    folder: str
    channels: tuple[str, ...]
    corrections: tuple[Correction, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the `params` of ``keep_corrections``."""
        return {
            "folder": self.folder,
            "channels": list(self.channels),
            "corrections": [correction.to_json() for correction in self.corrections],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> KeepCorrectionsParams:
        """Read the `params` of ``keep_corrections``."""
        with _reading("the corrections"):
            corrections = tuple(Correction.from_json(one) for one in value["corrections"])
            return cls(_text(value, "folder"), tuple(map(str, value["channels"])), corrections)


@dataclass(frozen=True)
class KeepCorrectionsResult:
    """Answer to a request to add corrected cases to a folder.

    Attributes:
        cases: name of each case in the folder.
    """

    cases: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the `result` of ``keep_corrections``."""
        return {"cases": list(self.cases)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> KeepCorrectionsResult:
        """Read the `result` of ``keep_corrections``."""
        with _reading("the result"):
            return cls(tuple(map(str, value["cases"])))


@dataclass(frozen=True)
class AdaptParams:
    """Request to adapt a model to corrected cases.

    Attributes:
        model: absolute path of the bundle of the model to adapt.
        cases: absolute path of the folder of corrected cases.
        output: absolute path of the new bundle's folder.
        name: name of the new model.
        minutes: time limit of the whole adaptation in minutes.
        device: "auto", "cpu", "cuda" or "mps".
        resume: True to continue an unfinished adaptation, False to start anew.
    """

    model: str
    cases: str
    output: str
    name: str
    minutes: float
    device: str = "auto"
    resume: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the `params` of ``adapt``."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> AdaptParams:
        """Read the `params` of ``adapt``."""
        with _reading("a model to adapt"):
            return cls(
                _text(value, "model"),
                _text(value, "cases"),
                _text(value, "output"),
                _text(value, "name"),
                float(value["minutes"]),
                _text(value, "device", "auto"),
                bool(value.get("resume", False)),
            )


@dataclass(frozen=True)
class AdaptResult:
    """Answer to a request to adapt a model.

    Attributes:
        kept: True if the new model was written; False if it was no better.
        before: Dice of each class on the held-out cases with the original model; empty if nothing
            could be compared.
        after: Dice of each class on the held-out cases with the new model.
        held_out: names of the held-out cases.
        message: one line for the user.
    """

    kept: bool
    before: Mapping[str, float]
    after: Mapping[str, float]
    held_out: tuple[str, ...]
    message: str

    def to_json(self) -> dict[str, Any]:
        """Return the `result` of ``adapt``."""
        return {
            "kept": self.kept,
            "before": dict(self.before),
            "after": dict(self.after),
            "held_out": list(self.held_out),
            "message": self.message,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> AdaptResult:
        """Read the `result` of ``adapt``."""
        with _reading("the result"):
            return cls(
                bool(value["kept"]),
                {str(name): float(dice) for name, dice in value["before"].items()},
                {str(name): float(dice) for name, dice in value["after"].items()},
                tuple(map(str, value["held_out"])),
                str(value["message"]),
            )


@dataclass(frozen=True)
class ProgressMessage:
    """Notification of a job's progress.

    Attributes:
        id: id of the job's request.
        stage: current stage, in words.
        fraction: fraction of the job that is done, 0 to 1.
        seconds_left: estimated seconds until the end; None if unknown.
    """

    method: ClassVar[str] = PROGRESS
    id: int | str
    stage: str
    fraction: float
    seconds_left: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the `params` of ``progress``."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ProgressMessage:
        """Read the `params` of ``progress``."""
        with _reading("a progress report"):
            left = value.get("seconds_left")
            left = None if left is None else float(left)
            return cls(value["id"], str(value.get("stage", "")), float(value["fraction"]), left)


@dataclass(frozen=True)
class ValidationMessage:
    """Notification of the validation Dice that an adaptation has reached.

    Attributes:
        id: id of the job's request.
        minutes: minutes since the start of the adaptation.
        dice: mean Dice of the classes on the held-out cases.
    """

    method: ClassVar[str] = VALIDATION
    id: int | str
    minutes: float
    dice: float

    def to_json(self) -> dict[str, Any]:
        """Return the `params` of ``validation``."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ValidationMessage:
        """Read the `params` of ``validation``."""
        with _reading("a validation"):
            return cls(value["id"], float(value["minutes"]), float(value["dice"]))


@dataclass(frozen=True)
class LogMessage:
    """Notification with text for the log.

    Attributes:
        text: text, of one line or more.
        level: "info" or "error".
    """

    method: ClassVar[str] = LOG
    text: str
    level: str = "info"

    def to_json(self) -> dict[str, Any]:
        """Return the `params` of ``log``."""
        return {"level": self.level, "text": self.text}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> LogMessage:
        """Read the `params` of ``log``."""
        return cls(str(value.get("text", "")), str(value.get("level", "info")))


def _edges_to_json(box: Box) -> dict[str, list[float]]:
    return {"lower": [float(x) for x in box.lower], "upper": [float(x) for x in box.upper]}


def _box(class_name: str, value: Mapping[str, Sequence[Any]]) -> Box:
    (a, b, c), (d, e, f) = value["lower"], value["upper"]
    return Box(class_name, (float(a), float(b), float(c)), (float(d), float(e), float(f)))


def _optional_number(value: Mapping[str, Any], name: str) -> float | None:
    return None if value.get(name) is None else float(value[name])


def _optional_place(value: Mapping[str, Any], name: str) -> tuple[float, float, float] | None:
    if value.get(name) is None:
        return None
    i, j, k = (float(edge) for edge in value[name])
    return i, j, k


def _text(value: Mapping[str, Any], name: str, default: str | None = None) -> str:
    text = value.get(name, default)
    if not isinstance(text, str) or not text:
        raise ProtocolError(f"the parameter '{name}' must be a non-empty string")
    return text


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """Raise a ProtocolError where a field is missing or of a wrong type."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ProtocolError(f"{what} is not described correctly: {error!r}") from error
