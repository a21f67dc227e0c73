"""The application: ``slicer.app``, the scene and the logics of the built-in modules.

The order follows ``qSlicerCoreApplication``: logics before the scene's observers, default nodes as
in the application (crosshair, colours, subject hierarchy, slice orientations).
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import ClassVar

import PySide6
import slicer
import vtk
from PySide6 import QtCore, QtWidgets

from Testing.host import module as modules
from Testing.host import subjecthierarchy
from Testing.host.iomanager import CoreIOManager
from Testing.host.python_lock import process_events_with_lock
from Testing.host.pythonqt import native

_QT_CORE = Path(PySide6.__file__).parent / "Qt" / "lib" / "libQt6Core.so.6"
# The application holds Python's global lock while it processes events; PySide6 releases it.
_process_events = process_events_with_lock(_QT_CORE) or QtWidgets.QApplication.processEvents

# Module name and class of each logic; a logic may depend on earlier ones.
_LOGICS = (
    ("SubjectHierarchy", "vtkSlicerSubjectHierarchyModuleLogic"),
    ("Units", "vtkSlicerUnitsLogic"),
    ("Cameras", "vtkSlicerCamerasModuleLogic"),
    ("Terminologies", "vtkSlicerTerminologiesModuleLogic"),
    ("Volumes", "vtkSlicerVolumesLogic"),
    ("Models", "vtkSlicerModelsLogic"),
    ("Markups", "vtkSlicerMarkupsLogic"),
    ("Transforms", "vtkSlicerTransformLogic"),
    ("Tables", "vtkSlicerTablesLogic"),
    ("Texts", "vtkSlicerTextsLogic"),
    ("Segmentations", "vtkSlicerSegmentationsModuleLogic"),
    ("CropVolume", "vtkSlicerCropVolumeLogic"),
    ("VolumeRendering", "vtkSlicerVolumeRenderingLogic"),
    ("Sequences", "vtkSlicerSequencesLogic"),
    ("Data", "vtkSlicerDataModuleLogic"),
)

_TISSUE = {
    "CodeMeaning": "Tissue",
    "CodingSchemeDesignator": "SCT",
    "CodeValue": "85756007",
    "showAnatomy": "true",
    "Type": [
        {
            "recommendedDisplayRGBValue": [128, 174, 128],
            "CodeMeaning": "Tissue",
            "CodingSchemeDesignator": "SCT",
            "CodeValue": "85756007",
        }
    ],
}


@native
class Application(QtWidgets.QApplication):
    """``slicer.app``: a QApplication that holds the scene."""

    startupCompleted = QtCore.Signal()
    aboutToQuit = QtCore.Signal()  # Python cannot emit Qt's own signal
    mrmlSceneChanged = QtCore.Signal(object)
    signatures: ClassVar = {
        "aboutToQuit()": "aboutToQuit",
        "mrmlSceneChanged(vtkMRMLScene*)": "mrmlSceneChanged",
    }
    majorVersion, minorVersion = 5, 12
    revision = repositoryRevision = "0"
    mainApplicationName = "Slicer"
    documentationBaseUrl = "https://slicer.readthedocs.io/en/latest/"

    def __init__(self):
        super().__init__(["Slicer"])
        self._temporary = tempfile.mkdtemp(prefix="slicer-host-")
        self._home = tempfile.mkdtemp(prefix="home-", dir=self._temporary)
        self._scene = slicer.vtkMRMLScene()
        self._logic = slicer.vtkSlicerApplicationLogic()
        self._manager = modules.ModuleManager()
        self._io = CoreIOManager(self._scene, self._logic)
        self._layout_manager = None
        self._window = None
        self.applicationName = "Slicer"
        self.organizationName = "NA-MIC"
        settings = QtCore.QSettings
        settings.setDefaultFormat(settings.Format.IniFormat)
        settings.setPath(settings.Format.IniFormat, settings.Scope.UserScope, self._home)

    def processEvents(self):
        _process_events()

    @property
    def temporaryPath(self):
        return self._temporary

    @property
    def slicerHome(self):
        return self._home

    @property
    def cachePath(self):
        return os.path.join(self._home, "cache")

    @property
    def slicerUserSettingsFilePath(self):
        return self.settings().fileName()

    def mrmlScene(self):
        return self._scene

    def applicationLogic(self):
        return self._logic

    def moduleManager(self):
        return self._manager

    def moduleLogic(self, name):
        return self._logic.GetModuleLogic(name)

    def coreIOManager(self):
        return self._io

    def ioManager(self):
        return self._io

    def layoutManager(self):
        return self._layout_manager

    def settings(self):
        return QtCore.QSettings()

    def userSettings(self):
        return QtCore.QSettings()

    def revisionUserSettings(self):
        return QtCore.QSettings()

    def startupEnvironment(self):
        return QtCore.QProcessEnvironment.systemEnvironment()

    def moduleDocumentationUrl(self, name):
        return f"{self.documentationBaseUrl}user_guide/modules/{name.lower()}.html"

    def translate(self, context, text):
        return text

    def testingEnabled(self):
        return False  # errors are shown as to a user, and messagelist.py records them

    def pauseRender(self):
        self._logic.PauseRender()

    def resumeRender(self):
        self._logic.ResumeRender()

    def pythonConsole(self):
        return None

    def restart(self):
        raise RuntimeError("the host cannot restart")


def create() -> Application:
    """Create ``slicer.app``, ``slicer.mrmlScene`` and ``slicer.modules``."""
    if QtWidgets.QApplication.instance() is not None:
        raise RuntimeError("another QApplication exists already")
    window = vtk.vtkOutputWindow()
    window.SetDisplayModeToAlwaysStdErr()
    vtk.vtkOutputWindow.SetInstance(window)
    app = Application()
    slicer.app, slicer.mrmlScene = app, app.mrmlScene()
    modules.new_namespace("slicer.modules")
    modules.new_namespace("slicer.moduleNames")
    _set_up_scene(app)
    _create_logics(app)
    subjecthierarchy.keep(slicer.mrmlScene)
    atexit.register(quit_application)
    return app


def _set_up_scene(app) -> None:
    scene, logic = app.mrmlScene(), app.applicationLogic()
    crosshair = slicer.vtkMRMLCrosshairNode()
    crosshair.SetCrosshairName("default")
    scene.AddNode(crosshair)
    logic.SetTemporaryPath(app.temporaryPath)
    logic.SetMRMLScene(scene)
    logic.SetSliceLogics(vtk.vtkCollection())
    logic.SetViewLogics(vtk.vtkCollection())
    os.makedirs(app.cachePath)  # .mrb files are unpacked there
    cache, data_io = slicer.vtkCacheManager(), slicer.vtkDataIOManager()
    cache.SetRemoteCacheDirectory(app.cachePath)
    data_io.SetCacheManager(cache)
    scene.SetCacheManager(cache)
    scene.SetDataIOManager(data_io)
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene, True)
    for name in ("ThreeD", "Slice"):
        factory = getattr(slicer, f"vtkMRML{name}ViewDisplayableManagerFactory").GetInstance()
        factory.SetMRMLApplicationLogic(logic)


def _write_terminologies(folder) -> None:
    """Write minimal files for the logic of terminologies; slicer-core ships none."""
    schema = "https://raw.githubusercontent.com/qiicr/dcmqi/master/doc/{}-context-schema.json#"
    name = "SegmentationCategoryTypeModifier-{}.term.json"
    contexts = {
        "SlicerGeneralAnatomy": "3D Slicer General Anatomy list",
        "DICOM-Master": "DICOM master list",
    }
    for context, title in contexts.items():
        content = {
            "SegmentationCategoryTypeContextName": "Segmentation category and type - " + title,
            "@schema": schema.format("segment"),
            "SegmentationCodes": {"Category": [_TISSUE]},
        }
        _write_json(os.path.join(folder, name.format(context)), content)
    regions = {
        "AnatomicContextName": "Anatomic codes - DICOM master list",
        "@schema": schema.format("anatomic"),
        "AnatomicCodes": {"AnatomicRegion": []},
    }
    _write_json(os.path.join(folder, "AnatomicRegionAndModifier-DICOM-Master.term.json"), regions)


def _write_json(path, content) -> None:
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file)


def _create_logics(app) -> None:
    scene, application_logic = app.mrmlScene(), app.applicationLogic()
    colors = application_logic.GetColorLogic()
    colors.SetMRMLScene(scene)
    colors.AddDefaultColorNodes()
    application_logic.SetModuleLogic("Colors", colors)
    app.moduleManager()._add(modules.CoreModule("Colors", colors))
    _write_terminologies(app.slicerHome)
    for name, class_name in _LOGICS:
        logic = getattr(slicer, class_name)()
        if hasattr(logic, "SetModuleShareDirectory"):  # the logic reads it when the scene is set
            logic.SetModuleShareDirectory(app.slicerHome)
        logic.SetMRMLApplicationLogic(application_logic)
        logic.SetMRMLScene(scene)
        application_logic.SetModuleLogic(name, logic)
        app.moduleManager()._add(modules.CoreModule(name, logic))


def quit_application() -> None:
    """Quit as the application does: panels clean up, the scene closes."""
    app = slicer.app
    if app is None:
        return
    from Testing.host import views

    app.aboutToQuit.emit()
    if app._window is not None:
        app._window.close()
    for name in list(app.moduleManager().loadedModuleNames()):
        if isinstance(app.moduleManager().module(name), modules.ScriptedModule):
            modules.unload(name)
    views.close_views()
    slicer.mrmlScene.Clear(True)
    sys.stdout.flush()
    shutil.rmtree(app.temporaryPath, ignore_errors=True)
    slicer.app = None
