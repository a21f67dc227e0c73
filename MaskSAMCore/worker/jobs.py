"""The requests that take time: they run one after another on the job thread."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from MaskSAMCore.errors import Cancelled
from MaskSAMCore.geometry import Box, Volume
from MaskSAMCore.worker.cache import Warm
from MaskSAMCore.worker.protocol import INVALID_PARAMS, Channel, Request, RequestError
from MaskSAMCore.worker.shared_files import open_image, signature, write_labelmap

# Progress within a stage is said when so much time has passed, or so much of the work.
_SECONDS_BETWEEN_REPORTS = 0.05
_SHARE_BETWEEN_REPORTS = 0.01
SESSION_LOST = (
    "what was kept of the earlier run was gone, or the volume, the ROI or the model has changed:"
    " the whole run was done again"
)
_SECONDS_TO_ABANDON = 2 * 24 * 3600


class Work:
    """One request being worked on.

    Attributes:
        params: of the request.
        warm: what is kept between requests.
    """

    def __init__(self, request: Request, channel: Channel, warm: Warm) -> None:
        self.params = request.params
        self.warm = warm
        self._request = request
        self._channel = channel
        self._stage, self._fraction, self._said = "", 0.0, 0.0

    def progress(self, stage: str, fraction: float, seconds_left: float | None) -> None:
        """Tell the client how far the work is."""
        now = time.monotonic()
        due = now - self._said >= _SECONDS_BETWEEN_REPORTS
        grown = fraction - self._fraction >= _SHARE_BETWEEN_REPORTS or fraction >= 1
        if due or grown or stage != self._stage:
            self._stage, self._fraction, self._said = stage, fraction, now
            number = self._request.id
            report = {"id": number, "stage": stage, "fraction": round(float(fraction), 4)}
            self._channel.notify("progress", **report, seconds_left=seconds_left)

    def log(self, text: str, level: str = "info") -> None:
        """Say something for the log."""
        self._channel.notify("log", level=level, text=text)

    def cancelled(self) -> bool:
        """Whether the client wishes to stop."""
        return self._request.stop.is_set()

    def check(self) -> None:
        """Raise Cancelled where the client wishes to stop."""
        if self.cancelled():
            raise Cancelled

    def text(self, name: str, default: str | None = None) -> str:
        """A parameter that is a text."""
        value = self.params.get(name, default)
        if not isinstance(value, str) or not value:
            raise RequestError(INVALID_PARAMS, f"the parameter '{name}' must be a text")
        return value


def segment(work: Work) -> dict[str, Any]:
    """``segment``: a volume to a file of labels, and what was found."""
    began = time.monotonic()
    images = work.params.get("images")
    if not isinstance(images, list) or not images:
        raise RequestError(INVALID_PARAMS, "the parameter 'images' must be a list of images")
    volumes = [open_image(value) for value in images]
    roi = None if work.params.get("roi") is None else _box(work.params["roi"])
    boxes = [_box(value) for value in work.params.get("boxes") or []]
    output = Path(work.text("output"))
    segmenter = _loaded(work)
    result = _segmented(work, segmenter, volumes, roi, boxes)
    work.check()
    device = segmenter.device
    return {
        "labelmap": write_labelmap(result.labelmap, output, work.check),
        "labels": [label.to_json() for label in result.labels],
        "instances": [_instance(one) for one in result.instances],
        "device": {"name": str(device.device), "reason": device.reason},
        "notes": list(result.notes),
        "seconds": time.monotonic() - began,
    }


def _instance(one: Any) -> dict[str, Any]:
    found = {
        "label": one.value,
        "name": one.name,
        "score": one.confidence,
        "lower": list(one.box.lower),
        "upper": list(one.box.upper),
        "voxels": one.voxel_count,
        "proposal": None,
    }
    if one.proposal is not None:
        box = one.proposal.box
        found["proposal"] = {
            "lower": list(box.lower),
            "upper": list(box.upper),
            "score": one.proposal.confidence,
        }
    return found


def _loaded(work: Work) -> Any:
    work.check()
    work.progress("Starting PyTorch", 0, None)
    import torch

    work.check()
    work.progress("Loading the model", 0, None)
    began = time.monotonic()
    segmenter = work.warm.segmenter(work.text("model"), work.text("device", "auto"))
    seconds = time.monotonic() - began
    work.log(f"PyTorch {torch.__version__}, on {segmenter.device}, ready in {seconds:.1f} s")
    work.check()
    return segmenter


def _segmented(
    work: Work, segmenter: Any, volumes: list[Volume], roi: Box | None, boxes: list[Box]
) -> Any:
    tta: Any = work.text("tta", "none")
    key = work.params.get("session")
    how: dict[str, Any] = {
        "overwrite": bool(work.params.get("overwrite", False)),
        "progress": work.progress,
        "cancelled": work.cancelled,
    }
    if key is None:
        return segmenter.segment(volumes, roi=roi, boxes=boxes, tta=tta, **how)
    images = tuple(signature(value) for value in work.params["images"])
    session, opened = work.warm.session(str(key), (images, roi, tta), segmenter, volumes, roi, tta)
    result = session.segment(boxes, **how)
    if opened and work.params.get("resume"):
        return replace(result, notes=(SESSION_LOST, *result.notes))
    return result


def _box(value: Any) -> Box:
    try:
        (a, b, c), (d, e, f) = value["lower"], value["upper"]
        lower, upper = (float(a), float(b), float(c)), (float(d), float(e), float(f))
        return Box(str(value.get("label") or ""), lower, upper)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RequestError(INVALID_PARAMS, f"a box is not described well: {error!r}") from error


def close_session(work: Work) -> dict[str, Any]:
    """``close_session``: let go of a session."""
    work.warm.close_session(work.text("session"))
    return {}


def devices(work: Work) -> dict[str, Any]:
    """``devices``: where the network can run, and which of them "auto" is and why."""
    import torch

    from MaskSAMCore.inference import choose_device

    auto = choose_device("auto")
    name, reason = str(auto.device), auto.reason
    threads = torch.get_num_threads()
    choices = [
        {
            "name": "cpu",
            "description": f"processor, {threads} thread{'s' if threads > 1 else ''}",
            "reason": reason if name == "cpu" else "",
        }
    ]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            size = properties.total_memory / 2**30
            description = f"{properties.name}, {size:.0f} GiB"
            choices.append({"name": f"cuda:{index}", "description": description, "reason": ""})
    if torch.backends.mps.is_available():
        choices.append({"name": "mps", "description": "Apple GPU", "reason": ""})
    return {"choices": choices, "auto": {"name": name, "reason": reason}}


def models(work: Work) -> dict[str, Any]:
    """``models``: the catalog."""
    from MaskSAMCore.models import catalog, installed

    return {
        "models": [
            {
                "name": entry.name,
                "title": entry.title,
                "kind": entry.kind,
                "licence": entry.licence,
                "size": entry.size,
                "url": entry.url,
                "folder": None if entry.folder is None else str(entry.folder),
                "installed": installed(entry),
            }
            for entry in catalog()
        ]
    }


def download(work: Work) -> dict[str, Any]:
    """``download``: an entry of the catalog, verified."""
    from MaskSAMCore.models import download as download_entry
    from MaskSAMCore.models import find

    entry = find(work.text("name"))
    stage, began = f"Downloading {entry.title}", time.monotonic()

    def report(done: int, total: int) -> None:
        share = min(1.0, done / max(total, 1))
        elapsed = time.monotonic() - began
        work.progress(stage, share, elapsed / share * (1 - share) if share else None)

    work.progress(stage, 0, None)
    _remove_abandoned()
    download_entry(entry, report, work.cancelled)
    work.warm.forget()
    return {}


def _remove_abandoned() -> None:
    """Remove half a download of days ago, left by a process that was killed."""
    from MaskSAMCore.models import user_folder

    for folder in user_folder().glob("*/.masksam-*"):
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime > _SECONDS_TO_ABANDON:
                shutil.rmtree(folder)


def add_model(work: Work) -> dict[str, Any]:
    """``add_model``: a bundle, or SAM's official weights, that a person brought."""
    from MaskSAMCore.models import add_file, catalog
    from MaskSAMCore.models import add_model as add_bundle

    path = Path(work.text("path"))
    work.progress(f"Verifying {path.name}", 0, None)
    for entry in catalog():
        if entry.kind == "backbone" and path.name == entry.file.name:
            add_file(entry, path)
            return {"name": entry.name, "title": entry.title}
    bundle = add_bundle(path)
    work.warm.forget()
    return {"name": bundle.name, "title": bundle.title}


def remove_model(work: Work) -> dict[str, Any]:
    """``remove_model``: a download or a model that a person added."""
    from MaskSAMCore.models import remove

    name = work.text("name")
    work.warm.forget()
    remove(name)
    return {}


JOBS: Mapping[str, Callable[[Work], dict[str, Any]]] = {
    "segment": segment,
    "close_session": close_session,
    "devices": devices,
    "models": models,
    "download": download,
    "add_model": add_model,
    "remove_model": remove_model,
}
