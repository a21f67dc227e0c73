"""Slice and 3D views rendered offscreen with Slicer's own displayable managers.

:func:`open_views` creates Red, Green, Yellow, one 3D view and ``slicer.app.layoutManager()``::

    views = host.open_views()
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    views["Red"].png("red.png")
    views["Red"].click(120, 80)             # press and release, through the real interactor
"""

from __future__ import annotations

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy
from vtkmodules.vtkInteractionStyle import vtkInteractorStyleUser

_IN_SLICES = (
    "vtkMRMLVolumeGlyphSliceDisplayableManager",
    "vtkMRMLModelSliceDisplayableManager",
    "vtkMRMLCrosshairDisplayableManager",
    "vtkMRMLOrientationMarkerDisplayableManager",
    "vtkMRMLRulerDisplayableManager",
    "vtkMRMLScalarBarDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager2D",
    "vtkMRMLMarkupsDisplayableManager",
)
_IN_3D = (
    "vtkMRMLCameraDisplayableManager",
    "vtkMRMLViewDisplayableManager",
    "vtkMRMLModelDisplayableManager",
    "vtkMRMLCrosshairDisplayableManager3D",
    "vtkMRMLOrientationMarkerDisplayableManager",
    "vtkMRMLRulerDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager3D",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLVolumeRenderingDisplayableManager",
)
SLICES = {"Red": "Axial", "Green": "Coronal", "Yellow": "Sagittal"}


class View:
    """Offscreen render window with a view's displayable managers and interactor."""

    _managers: tuple[str, ...]
    _factory: type
    _style: type

    def __init__(self, node, size):
        self.node, self.size = node, size
        self.renderer = vtk.vtkRenderer()
        self.window = vtk.vtkRenderWindow()
        self.window.SetOffScreenRendering(1)
        self.window.SetMultiSamples(0)
        self.window.SetSize(*size)
        self.window.AddRenderer(self.renderer)
        self.interactor = vtk.vtkGenericRenderWindowInteractor()
        self.interactor.SetRenderWindow(self.window)
        self.interactor.SetInteractorStyle(vtkInteractorStyleUser())
        self.interactor.UpdateSize(*size)
        factory = self._factory.GetInstance()
        for manager in self._managers:
            if not factory.IsDisplayableManagerRegistered(manager):
                factory.RegisterDisplayableManager(manager)
        self.group = slicer.vtkMRMLDisplayableManagerGroup()
        self.group.SetRenderer(self.renderer)
        self.group.Initialize(factory, self.renderer)
        self.group.SetMRMLDisplayableNode(node)
        self.style = self._style()
        self.style.SetDisplayableManagers(self.group)

    def image(self) -> np.ndarray:
        """Render and return the picture: uint8 (height, width, 3), top row first."""
        self.window.Render()
        grab = vtk.vtkWindowToImageFilter()
        grab.SetInput(self.window)
        grab.ReadFrontBufferOff()
        grab.Update()
        width, height, _ = grab.GetOutput().GetDimensions()
        pixels = vtk_to_numpy(grab.GetOutput().GetPointData().GetScalars())
        return np.ascontiguousarray(pixels.reshape(height, width, -1)[::-1, :, :3])

    def png(self, path) -> np.ndarray:
        """Write the picture as a PNG file and return it."""
        from PySide6.QtGui import QImage

        picture = self.image()
        height, width, _ = picture.shape
        QImage(picture.data, width, height, 3 * width, QImage.Format.Format_RGB888).save(str(path))
        return picture

    def resize(self, width: int, height: int) -> None:
        """Resize the view to a width and height in pixels."""
        self.size = (width, height)
        self.window.SetSize(width, height)
        self.interactor.UpdateSize(width, height)

    def event(self, name: str, x: int, y: int, control=False, shift=False) -> None:
        """Invoke a VTK event such as ``MouseMoveEvent`` at pixel (x, y) from the lower left."""
        self.interactor.SetEventInformation(x, y, int(control), int(shift), chr(0), 0, None)
        self.interactor.InvokeEvent(name)

    def click(self, x: int, y: int) -> None:
        """Move to a pixel and press and release the left button."""
        for name in ("MouseMoveEvent", "LeftButtonPressEvent", "LeftButtonReleaseEvent"):
            self.event(name, x, y)

    def drag(self, start: tuple[int, int], end: tuple[int, int], steps: int = 4) -> None:
        """Press at one pixel, move to another and release."""
        self.event("MouseMoveEvent", *start)
        self.event("LeftButtonPressEvent", *start)
        for point in np.linspace(start, end, steps + 1)[1:].round().astype(int).tolist():
            self.event("MouseMoveEvent", *point)
        self.event("LeftButtonReleaseEvent", *end)

    def close(self) -> None:
        """Detach the view from the scene."""
        self.style.SetInteractor(None)
        self.group.SetMRMLDisplayableNode(None)
        self.window.Finalize()


class SliceView(View):
    """Slice view: Red, Green or Yellow."""

    _managers = _IN_SLICES
    _factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory
    _style = slicer.vtkMRMLSliceViewInteractorStyle

    def __init__(self, name, orientation, size):
        application_logic = slicer.app.applicationLogic()
        self.logic = slicer.vtkMRMLSliceLogic()
        self.logic.SetMRMLApplicationLogic(application_logic)
        application_logic.GetSliceLogics().AddItem(self.logic)
        self.logic.SetMRMLScene(slicer.mrmlScene)
        node = slicer.mrmlScene.GetSingletonNode(name, "vtkMRMLSliceNode")
        if node is None:
            node = self.logic.AddSliceNode(name)
        else:  # it exists from an earlier view or a file
            self.logic.SetSliceNode(node)
        node.SetOrientation(orientation)
        node.SetDimensions(*size, 1)
        super().__init__(node, size)
        self.renderer.GetActiveCamera().ParallelProjectionOn()
        self._mapper = vtk.vtkImageMapper()
        self._mapper.SetColorWindow(255)
        self._mapper.SetColorLevel(127.5)
        actor = vtk.vtkActor2D()
        actor.SetMapper(self._mapper)
        actor.GetProperty().SetDisplayLocationToBackground()
        self.renderer.AddViewProp(actor)
        self.style.SetSliceLogic(self.logic)
        self.style.SetInteractor(self.interactor)
        self.event("EnterEvent", 1, 1)

    def image(self):
        self.logic.UpdatePipeline()
        self._mapper.SetInputConnection(self.logic.GetImageDataConnection())
        return super().image()

    def resize(self, width, height):
        super().resize(width, height)
        self.logic.ResizeSliceNode(width, height)

    def fit(self):
        """Fit the slice to all volumes."""
        self.logic.FitSliceToAll(*self.size)

    def xy_to_ras(self, x: int, y: int) -> tuple[float, float, float]:
        """Return the RAS position of a pixel, in mm."""
        return self.node.GetXYToRAS().MultiplyPoint((x, y, 0, 1))[:3]

    def ras_to_xy(self, ras) -> tuple[int, int]:
        """Return the pixel of a RAS position."""
        inverse = vtk.vtkMatrix4x4()
        vtk.vtkMatrix4x4.Invert(self.node.GetXYToRAS(), inverse)
        x, y = inverse.MultiplyPoint((*ras, 1))[:2]
        return round(x), round(y)

    def close(self):
        super().close()
        slicer.app.applicationLogic().GetSliceLogics().RemoveItem(self.logic)
        self.logic.SetMRMLScene(None)


class ThreeDView(View):
    """3D view."""

    _managers = _IN_3D
    _factory = slicer.vtkMRMLThreeDViewDisplayableManagerFactory
    _style = slicer.vtkMRMLThreeDViewInteractorStyle

    def __init__(self, name, size):
        application_logic = slicer.app.applicationLogic()
        self.logic = slicer.vtkMRMLViewLogic()
        self.logic.SetMRMLApplicationLogic(application_logic)
        application_logic.GetViewLogics().AddItem(self.logic)
        self.logic.SetMRMLScene(slicer.mrmlScene)
        node = slicer.mrmlScene.GetSingletonNode(name, "vtkMRMLViewNode")
        if node is None:
            node = self.logic.AddViewNode(name)
        super().__init__(node, size)
        self.style.SetInteractor(self.interactor)

    def fit(self):
        """Fit the camera to the whole scene."""
        self.window.Render()
        self.renderer.ResetCamera()

    def close(self):
        super().close()
        slicer.app.applicationLogic().GetViewLogics().RemoveItem(self.logic)
        self.logic.SetMRMLScene(None)


class LayoutManager:
    """``slicer.app.layoutManager()`` of four fixed views."""

    def __init__(self, views):
        self._views = views
        self.layout = slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView

    def setLayout(self, layout):
        self.layout = layout

    def sliceViewNames(self):
        return [name for name, view in self._views.items() if hasattr(view, "xy_to_ras")]

    def sliceWidget(self, name):
        return _SliceWidget(self._views[name]) if name in self.sliceViewNames() else None

    @property
    def threeDViewCount(self):
        return 1

    def threeDWidget(self, index):
        return _ThreeDWidget(self._views["1"]) if index in (0, "View1") else None

    def mrmlSliceLogics(self):
        return slicer.app.applicationLogic().GetSliceLogics()

    def resetSliceViews(self):
        for name in self.sliceViewNames():
            self._views[name].fit()

    def resetThreeDViews(self):
        self._views["1"].fit()


class _SliceWidget:
    def __init__(self, view):
        self._view = view

    def sliceLogic(self):
        return self._view.logic

    def mrmlSliceNode(self):
        return self._view.node

    def mrmlSliceCompositeNode(self):
        return self._view.logic.GetSliceCompositeNode()

    def sliceView(self):
        return _VTKView(self._view)

    def sliceController(self):
        return self

    def fitSliceToBackground(self):
        self._view.fit()


class _VTKView:
    def __init__(self, view):
        self._view = view

    def renderWindow(self):
        return self._view.window

    def interactor(self):
        return self._view.interactor

    def forceRender(self):
        self._view.image()

    def scheduleRender(self):
        pass

    def mrmlViewNode(self):
        return self._view.node

    def resetFocalPoint(self):
        self._view.fit()

    def resetCamera(self):
        self._view.fit()


class _ThreeDWidget:
    def __init__(self, view):
        self._view = view

    def threeDView(self):
        return _VTKView(self._view)

    def mrmlViewNode(self):
        return self._view.node

    def threeDController(self):
        return _VTKView(self._view)


def open_views(size: tuple[int, int] = (400, 300)) -> dict[str, View]:
    """Open the four views unless they are open, and return them by name."""
    manager = slicer.app.layoutManager()
    if manager is None:
        views = {name: SliceView(name, axis, size) for name, axis in SLICES.items()}
        views["1"] = ThreeDView("1", size)
        slicer.app._layout_manager = manager = LayoutManager(views)
    return manager._views


def close_views() -> None:
    """Close the views and remove the layout manager, as without a main window."""
    manager = slicer.app.layoutManager()
    if manager is not None:
        slicer.app._layout_manager = None
        for view in manager._views.values():
            view.close()
