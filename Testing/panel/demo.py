"""The second half of ``make demo``: a person's clicks on the real panel, without Slicer.

It loads the head of ``masksam demo``, clicks Segment for each of the two ROIs, moves a box and
clicks Update, and saves the scene and pictures of the window.
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
        move_a_box(application, panel)
        window.save(folder / "boxes.png")
    finally:
        panel.cleanup()
        window.close()
    if host.errors or host.messages.texts("error"):
        sys.exit(f"demo: {[*host.errors, *host.messages.texts('error')]}")
    print(
        f"{folder}: scene.mrb (open it in 3D Slicer), panel.png, panel-dark.png, boxes.png;"
        f" {time.perf_counter() - began:.1f} s"
    )


def segment(application, panel, roi_file: Path) -> None:
    """Choose an ROI, click Segment, wait, click Show in 3D."""
    import slicer

    roi = slicer.util.loadMarkups(str(roi_file))
    panel.ui.roiSelector.setCurrentNode(roi)
    panel.ui.segmentButton.click()
    wait(application, panel)
    print(f"{roi.GetName()}: {panel.ui.statusLabel.text}")
    roi.GetDisplayNode().SetVisibility(False)
    if panel.ui.show3DButton.enabled and not panel.ui.show3DButton.checked:
        panel.ui.show3DButton.click()


def wait(application, panel) -> None:
    """Let the application run until the worker is done."""
    began = time.monotonic()
    while panel.panel.busy:
        if time.monotonic() - began > LONGEST_RUN_S:
            sys.exit(f"demo: no end of the run: {panel.ui.statusLabel.text}")
        application.processEvents()
        time.sleep(0.01)


def move_a_box(application, panel) -> None:
    """Show the boxes of the last run, move one by the mouse in the axial view, click Update."""
    import numpy as np
    import slicer

    for section in (panel.ui.inputsButton, panel.ui.modelButton, panel.ui.outputButton):
        section.collapsed = True
    panel.ui.showBoxesButton.click()
    box = panel.panel.boxes.boxes.nodes[0]
    center = [0.0, 0.0, 0.0]
    box.GetCenterWorld(center)
    centered = slicer.vtkMRMLSliceNode.CenteredJumpSlice
    slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, *center, centered)
    application.processEvents()
    view = host.open_views()["Red"]
    view.image()
    to_pixel = np.linalg.inv(slicer.util.arrayFromVTKMatrix(view.node.GetXYToRAS()))
    x, y = ((to_pixel @ [*center, 1])[:2]).round().astype(int).tolist()
    view.drag((x, y), (x + 6, y + 12))
    panel.ui.updateButton.click()
    wait(application, panel)
    print(panel.ui.statusLabel.text)
    application.processEvents()


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
