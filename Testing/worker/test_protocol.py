"""Messages of the protocol, each with a literal example of its JSON."""

from __future__ import annotations

import json

import pytest

from MaskSAMCore.geometry import Box
from MaskSAMCore.labels import Label
from MaskSAMCore.worker import protocol
from MaskSAMCore.worker.protocol import (
    AdaptParams,
    AdaptResult,
    AddModelParams,
    AddModelResult,
    AvailableDevice,
    Correction,
    DevicesResult,
    DeviceUsed,
    ErrorCode,
    ImageFile,
    InitializeParams,
    InitializeResult,
    InstanceMessage,
    KeepCorrectionsParams,
    KeepCorrectionsResult,
    LabelmapFile,
    LogMessage,
    ModelParams,
    ProgressMessage,
    ProposalMessage,
    ProtocolError,
    Request,
    RequestError,
    SegmentParams,
    SegmentResult,
    SessionParams,
    ValidationMessage,
    encode_line,
)

BOX = Box("Anterior", (1.0, 2.5, 3.0), (4.0, 5.0, 6.0))
EXAMPLES = {
    "initialize params": (
        InitializeParams("/tmp/masksam-x"),
        {"protocol": 1, "client": "MaskSAMSlicer", "folder": "/tmp/masksam-x"},
    ),
    "initialize result": (
        InitializeResult(1, "0.1.0", 77),
        {"protocol": 1, "version": "0.1.0", "pid": 77},
    ),
    "segment params": (
        SegmentParams(
            images=(
                ImageFile(
                    "/f/volume-1.raw", (3, 4, 5), "<i2", ((1.0, 0.0), (0.0, 1.0)), "MR häd", "MR"
                ),
            ),
            model="brain",
            output="/f/labelmap-2.raw",
            roi=Box("", (0.0, 0.0, 0.0), (5.0, 4.0, 3.0)),
            boxes=(BOX,),
            device="auto",
            tta="none",
            session="abc",
            resume=True,
            overwrite=False,
            resample=True,
        ),
        {
            "images": [
                {
                    "path": "/f/volume-1.raw",
                    "shape": [3, 4, 5],
                    "dtype": "<i2",
                    "ijk_to_ras": [[1.0, 0.0], [0.0, 1.0]],
                    "name": "MR häd",
                    "modality": "MR",
                }
            ],
            "model": "brain",
            "output": "/f/labelmap-2.raw",
            "roi": {"label": "", "lower": [0.0, 0.0, 0.0], "upper": [5.0, 4.0, 3.0]},
            "boxes": [{"label": "Anterior", "lower": [1.0, 2.5, 3.0], "upper": [4.0, 5.0, 6.0]}],
            "device": "auto",
            "tta": "none",
            "session": "abc",
            "resume": True,
            "overwrite": False,
            "resample": True,
        },
    ),
    "segment result": (
        SegmentResult(
            LabelmapFile("/f/labelmap-2.raw", (3, 4, 5), "|u1"),
            (Label(1, "Anterior", (1.0, 0.5, 0.0)),),
            (
                InstanceMessage(1, "Anterior", 0.75, BOX, 42, ProposalMessage(BOX, 0.5)),
                InstanceMessage(1, "Anterior", 0.75, BOX, 42, None, 0.9, 0.8, (1.5, 2.0, 3.5)),
            ),
            DeviceUsed("cpu", "no GPU"),
            ("a note",),
            1.5,
            ("Anterior",),
        ),
        {
            "labelmap": {"path": "/f/labelmap-2.raw", "shape": [3, 4, 5], "dtype": "|u1"},
            "labels": [
                {"value": 1, "name": "Anterior", "color": (1.0, 0.5, 0.0), "terminology": None}
            ],
            "instances": [
                {
                    "label": 1,
                    "name": "Anterior",
                    "score": 0.75,
                    "lower": [1.0, 2.5, 3.0],
                    "upper": [4.0, 5.0, 6.0],
                    "voxels": 42,
                    "proposal": proposal,
                    "expected_dice": dice,
                    "expected_dice_low": low,
                    "weakest_place": place,
                }
                for proposal, dice, low, place in (
                    (
                        {"lower": [1.0, 2.5, 3.0], "upper": [4.0, 5.0, 6.0], "score": 0.5},
                        None,
                        None,
                        None,
                    ),
                    (None, 0.9, 0.8, [1.5, 2.0, 3.5]),
                )
            ],
            "device": {"name": "cpu", "reason": "no GPU"},
            "notes": ["a note"],
            "seconds": 1.5,
            "intracranial": ["Anterior"],
        },
    ),
    "keep_corrections params": (
        KeepCorrectionsParams(
            "/f/kept",
            ("T1",),
            (
                Correction(
                    "head",
                    (ImageFile("/f/a.raw", (3, 4, 5), "<i2", ((1.0, 0.0), (0.0, 1.0)), "head"),),
                    LabelmapFile("/f/b.raw", (3, 4, 5), "|u1"),
                    (Label(1, "Lesion", (1.0, 0.0, 0.5)),),
                    ("Lesion",),
                ),
            ),
        ),
        {
            "folder": "/f/kept",
            "channels": ["T1"],
            "corrections": [
                {
                    "name": "head",
                    "images": [
                        {
                            "path": "/f/a.raw",
                            "shape": [3, 4, 5],
                            "dtype": "<i2",
                            "ijk_to_ras": [[1.0, 0.0], [0.0, 1.0]],
                            "name": "head",
                            "modality": "",
                        }
                    ],
                    "labelmap": {"path": "/f/b.raw", "shape": [3, 4, 5], "dtype": "|u1"},
                    "labels": [
                        {
                            "value": 1,
                            "name": "Lesion",
                            "color": (1.0, 0.0, 0.5),
                            "terminology": None,
                        }
                    ],
                    "checked": ["Lesion"],
                }
            ],
        },
    ),
    "keep_corrections result": (KeepCorrectionsResult(("head-2",)), {"cases": ["head-2"]}),
    "adapt params": (
        AdaptParams("/m/brain", "/f/kept", "/m/ours", "ours", 15.0, "cpu", True),
        {
            "model": "/m/brain",
            "cases": "/f/kept",
            "output": "/m/ours",
            "name": "ours",
            "minutes": 15.0,
            "device": "cpu",
            "resume": True,
        },
    ),
    "adapt result": (
        AdaptResult(True, {"Lesion": 0.25}, {"Lesion": 0.5}, ("head",), "better"),
        {
            "kept": True,
            "before": {"Lesion": 0.25},
            "after": {"Lesion": 0.5},
            "held_out": ["head"],
            "message": "better",
        },
    ),
    "validation params": (
        ValidationMessage(1, 0.5, 0.75),
        {"id": 1, "minutes": 0.5, "dice": 0.75},
    ),
    "close_session params": (SessionParams("abc"), {"session": "abc"}),
    "devices result": (
        DevicesResult((AvailableDevice("cpu", "processor, 2 threads"),), DeviceUsed("cpu", "why")),
        {
            "choices": [{"name": "cpu", "description": "processor, 2 threads", "reason": ""}],
            "auto": {"name": "cpu", "reason": "why"},
        },
    ),
    "download params": (ModelParams("sam_vit_b"), {"name": "sam_vit_b"}),
    "add_model params": (AddModelParams("/m/new"), {"path": "/m/new"}),
    "add_model result": (
        AddModelResult("new", "New model"),
        {"name": "new", "title": "New model"},
    ),
    "progress params": (
        ProgressMessage(3, "Segmenting", 0.25, 7.5),
        {"id": 3, "stage": "Segmenting", "fraction": 0.25, "seconds_left": 7.5},
    ),
    "log params": (LogMessage("text", "error"), {"level": "error", "text": "text"}),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_message_has_the_fields_of_the_protocol_and_is_read_back(name: str):
    message, example = EXAMPLES[name]
    assert message.to_json() == example
    assert type(message).from_json(json.loads(json.dumps(example))) == message


def test_a_request_and_a_notification_differ_by_the_id():
    request = Request(protocol.CLOSE_SESSION, {"session": "ü"}, 5)
    line = encode_line(request.to_json())
    assert json.loads(line) == {
        "jsonrpc": "2.0",
        "id": 5,
        "method": "close_session",
        "params": {"session": "ü"},
    }
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    assert Request.from_line(line) == request
    assert Request(protocol.CANCEL, {"id": 5}).to_json() == {
        "method": "cancel",
        "params": {"id": 5},
    }


@pytest.mark.parametrize(
    ("error", "example"),
    [
        (RequestError(ErrorCode.REFUSED, "no"), {"code": -32000, "message": "no"}),
        (
            RequestError(ErrorCode.INTERNAL_ERROR, "an error", "Traceback"),
            {"code": -32603, "message": "an error", "data": {"traceback": "Traceback"}},
        ),
    ],
)
def test_an_error_is_written_and_read_back(error: RequestError, example: dict):
    assert error.to_json() == example
    again = RequestError.from_json(example)
    assert (again.code, again.message, again.traceback) == (
        error.code,
        error.message,
        error.traceback,
    )


@pytest.mark.parametrize("value", [{}, {"id": 1}, {"id": 1, "fraction": "half"}])
def test_a_message_without_its_fields_is_an_error(value: dict):
    with pytest.raises(ProtocolError, match="a progress report is not described correctly"):
        ProgressMessage.from_json(value)


@pytest.mark.parametrize("image", [None, 3, {}, {"path": "x", "shape": [1, 2], "dtype": "u1"}])
def test_an_image_without_its_fields_is_an_error(image: object):
    with pytest.raises(ProtocolError, match="an image is not described correctly"):
        SegmentParams.from_json({"images": [image], "model": "m", "output": "o"})
