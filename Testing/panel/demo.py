"""The second half of ``make demo``: a person's clicks on the real panel, without Slicer.

It loads the head of ``masksam demo``, clicks Segment for each of the two ROIs, and saves the scene
and pictures of the window.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from Testing import host
from Testing.slicer.module_tools import MODULE, ROOT

from .pictures import save_light_and_dark

LONGEST_RUN_S = 300.0
SIDES = ("left", "right")


def main() -> None:
    """Drive the panel and save what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="of masksam demo; the results go there too")
    folder = parser.parse_args().folder.resolve()
    head = folder / "mni152_t1.nii.gz"
    if not head.is_file():
        sys.exit(f"demo: {head} is missing: run 'masksam demo -o {folder}' first")
    began = time.perf_counter()
    application = host.start()
    import slicer

    host.load_module(MODULE)
    window = host.open_window("MaskSAMSlicer", (1500, 1040))
    panel = slicer.modules.MaskSAMSlicerWidget
    try:
        volume = slicer.util.loadVolume(str(head), {"name": "MNI152 T1"})
        slicer.util.setSliceViewerLayers(background=volume, fit=True)
        panel.ui.volumeSelector.setCurrentNode(volume)
        for side in SIDES:
            segment(application, panel, ROOT / f"Resources/SampleData/hippocampus-{side}.mrk.json")
        show(panel)
        slicer.util.saveScene(str(folder / "scene.mrb"))
        save_light_and_dark(window, folder)
    finally:
        panel.cleanup()
        window.close()
    if host.errors or host.messages.texts("error"):
        sys.exit(f"demo: {[*host.errors, *host.messages.texts('error')]}")
    print(
        f"{folder}: scene.mrb (open it in 3D Slicer), panel.png, panel-dark.png;"
        f" {time.perf_counter() - began:.1f} s"
    )


def segment(application, panel, roi_file: Path) -> None:
    """Choose an ROI, click Segment, wait, click Show in 3D."""
    import slicer

    roi = slicer.util.loadMarkups(str(roi_file))
    panel.ui.roiSelector.setCurrentNode(roi)
    panel.ui.segmentButton.click()
    began = time.monotonic()
    while panel.panel.busy:
        if time.monotonic() - began > LONGEST_RUN_S:
            sys.exit(f"demo: no end of the run: {panel.ui.statusLabel.text}")
        application.processEvents()
        time.sleep(0.01)
    print(f"{roi.GetName()}: {panel.ui.statusLabel.text}")
    roi.GetDisplayNode().SetVisibility(False)
    if panel.ui.show3DButton.enabled and not panel.ui.show3DButton.checked:
        panel.ui.show3DButton.click()


def show(panel) -> None:
    """Go to the first class, and look at the surfaces from the front."""
    import slicer

    panel.ui.resultsTable.cellClicked.emit(0, 0)
    slicer.app.processEvents()
    view = host.open_views()["1"]
    for node in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
        node.SetFieldOfView(*(value * 0.6 for value in node.GetFieldOfView()[:2]), 1)
    view.node.SetBoxVisible(False)
    view.node.SetAxisLabelsVisible(False)
    camera = view.renderer.GetActiveCamera()
    camera.SetFocalPoint(0, -20, -15)
    camera.SetPosition(120, 160, 60)
    camera.SetViewUp(0, 0, 1)
    view.renderer.ResetCamera()
    camera.Zoom(0.95)


if __name__ == "__main__":
    main()
