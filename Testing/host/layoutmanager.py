"""``slicer.app.layoutManager()`` for the four offscreen views: what scripts ask most often."""

from __future__ import annotations

import slicer


class LayoutManager:
    """Finds the views; the layout itself is fixed at four."""

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
