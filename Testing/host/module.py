"""The registry of modules; loading, selecting and unloading scripted modules.

:func:`load` runs the module's file, creates ``<Name>(parent)`` and registers
``slicer.modules.<name>`` and ``<Name>Instance``; the first ``widgetRepresentation()`` creates the
panel (``setup()``, then the scene) and registers it as ``<Name>Widget``.
:func:`select` switches panels: ``exit()`` of the previous one, ``enter()`` of the new one.
:func:`unload` emits ``moduleAboutToBeUnloaded``, on which the panel's ``cleanup()`` runs, and
removes the module.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import types
from pathlib import Path

import slicer
from PySide6 import QtCore, QtGui

from Testing.host.mrmlwidgets import qSlicerScriptedLoadableModuleWidget
from Testing.host.pythonqt import native


@native
class ModuleManager(QtCore.QObject):
    """``slicer.app.moduleManager()``: the modules, with signals when one is loaded or unloaded."""

    moduleLoaded = QtCore.Signal(str)
    moduleAboutToBeUnloaded = QtCore.Signal(str)

    def __init__(self):
        super().__init__()
        self._modules = {}
        self._selected = None

    def factoryManager(self):
        return self

    def loadedModuleNames(self):
        return list(self._modules)

    def modulesNames(self):
        return list(self._modules)

    def isLoaded(self, name):
        return name in self._modules

    def module(self, name):
        return self._modules.get(name)

    def _add(self, module):
        self._modules[module.name] = module
        setattr(slicer.modules, module.name.lower(), module)
        setattr(slicer.moduleNames, module.name, module.name)


class CoreModule:
    """Built-in module: a name and a logic, no panel."""

    def __init__(self, name, logic):
        self.name = self.title = name
        self.path = ""
        self._logic = logic

    def logic(self):
        return self._logic

    def widgetRepresentation(self):
        return None


class ScriptedModule:
    """Scripted module: the ``parent`` of its Python class, and ``slicer.modules.<name>``."""

    def __init__(self, path):
        self.path = str(path)
        self.name = Path(path).stem
        self.title = self.name
        self.categories = []
        self.dependencies = []
        self.contributors = []
        self.helpText = self.acknowledgementText = ""
        self.associatedNodeTypes = []
        self.hidden = False
        self.index = -1
        self.icon = QtGui.QIcon()
        self.extensions = {}
        self._widget = None

    def __setattr__(self, name, value):
        if "_widget" in self.__dict__ and name not in self.__dict__:
            raise AttributeError(f"Attribute '{name}' does not exist on a scripted module")
        super().__setattr__(name, value)

    def logic(self):
        return slicer.vtkSlicerScriptedLoadableModuleLogic()

    def _create_panel(self, frame):
        module = sys.modules[self.name]
        frame._python_self = getattr(module, self.name + "Widget")(frame)
        setattr(slicer.modules, self.name + "Widget", frame._python_self)

    def createNewWidgetRepresentation(self):
        frame = qSlicerScriptedLoadableModuleWidget()
        frame._create = self._create_panel
        self._create_panel(frame)
        frame.setup()
        frame.setMRMLScene(slicer.mrmlScene)
        return frame

    def widgetRepresentation(self):
        if self._widget is None and hasattr(sys.modules[self.name], self.name + "Widget"):
            self._widget = self.createNewWidgetRepresentation()
        return self._widget


slicer.qSlicerScriptedLoadableModule = ScriptedModule  # slicer.util.getModuleLogic looks it up


def new_namespace(name: str) -> types.ModuleType:
    """Create an empty Python module such as ``slicer.modules``, importable under its name."""
    module = sys.modules[name] = types.ModuleType(name)
    setattr(slicer, name.rpartition(".")[2], module)
    return module


def load(path) -> ScriptedModule:
    """Load a scripted module from its file as the application does at startup."""
    path = Path(path).resolve()
    name = path.stem
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    source = importlib.util.module_from_spec(spec)
    sys.modules[name] = source
    spec.loader.exec_module(source)
    module = ScriptedModule(path)
    instance = getattr(source, name)(module)
    manager = slicer.app.moduleManager()
    manager._add(module)
    setattr(slicer.modules, name + "Instance", instance)
    if hasattr(instance, "setup"):
        instance.setup()
    manager.moduleLoaded.emit(name)
    return module


def select(name: str | None):
    """Show another module's panel, or none, and return the panel's Python object."""
    manager = slicer.app.moduleManager()
    if manager._selected is not None:
        manager._selected.widgetRepresentation().exit()
        manager._selected = None
    if name is None:
        return None
    module = slicer.util.getModule(name)
    frame = module.widgetRepresentation()
    manager._selected = module
    frame.enter()
    return frame.self()


def unload(name: str) -> None:
    """Unload a scripted module as the application does when it quits."""
    manager = slicer.app.moduleManager()
    module = manager.module(name)
    if manager._selected is module:
        select(None)
    manager.moduleAboutToBeUnloaded.emit(name)
    frame, module._widget = module._widget, None
    if frame is not None:
        frame.delete()
    for namespace, key in (
        (slicer.modules, name.lower()),
        (slicer.modules, name + "Instance"),
        (slicer.modules, name + "Widget"),
        (slicer.moduleNames, name),
    ):
        if hasattr(namespace, key):
            delattr(namespace, key)
    del manager._modules[name]
    sys.modules.pop(name, None)
    folder = os.path.dirname(module.path)
    if folder in sys.path:
        sys.path.remove(folder)
