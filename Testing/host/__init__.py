"""A small stand-in for the Slicer application, for tests of scripted modules.

Real: the scene, every MRML node, the logics, the displayable managers and VTK (slicer-core), Qt
(PySide6), and ``slicer.util``. Replaced: PythonQt, the ctk and qMRML widgets, the application
object, and the Python files that slicer-core lacks (see README.md beside this file).

::

    from Testing import host

    application = host.start()              # before anything else; 'import slicer' is not enough
    module = host.load_module("MaskSAMSlicer/MaskSAMSlicer.py")
    panel = host.select_module("MaskSAMSlicer")   # its Python object, after setup() and enter()
    panel.ui.applyButton.click()
    host.messages.texts("error")            # messages shown to the user
    host.errors                             # exceptions that slots, timers and observers raised
"""

from __future__ import annotations

import os
import sys

messages = None  #: messages shown to the user, and queued answers; see messagelist.py
errors: list[BaseException] = []  #: exceptions raised in slots, timers and observers, oldest first

_application = None


def prepare_environment() -> None:
    """Select rendering without a display; must run before Qt and VTK are imported."""
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    if sys.platform == "linux" and "VTK_DEFAULT_OPENGL_WINDOW" not in os.environ:
        import ctypes.util

        window = (
            "vtkEGLRenderWindow" if ctypes.util.find_library("EGL") else "vtkOSOpenGLRenderWindow"
        )
        os.environ["VTK_DEFAULT_OPENGL_WINDOW"] = window


def start():
    """Start the application if it is not running yet, and return ``slicer.app``."""
    global _application, messages
    if _application is not None:
        return _application
    prepare_environment()
    from Testing.host import pythonqt

    qt = pythonqt.install()
    import slicer
    import slicer.util

    from Testing.host import (
        application,
        ctkwidgets,
        messagelist,
        mrmlwidgets,
        packages,
        sampledata,
        slicersource,
        uiloader,
    )

    _register("ctk", ctkwidgets.WIDGETS)
    for name, cls in mrmlwidgets.WIDGETS.items():
        setattr(slicer, name, cls)
    uiloader.install(qt, {**ctkwidgets.WIDGETS, **mrmlwidgets.WIDGETS})
    _application = application.create()
    sys.modules["slicer.packaging"] = slicer.packaging = packages
    sys.modules["SampleData"] = sampledata
    slicersource.install()
    messages = messagelist.install(qt, slicer.util)
    _record_errors()
    return _application


def quit_application() -> None:
    """Quit the application before the process ends; it cannot start again."""
    from Testing.host import application

    application.quit_application()


def _register(name: str, widgets: dict[str, type]) -> None:
    import types

    module = sys.modules[name] = types.ModuleType(name)
    for key, cls in widgets.items():
        setattr(module, key, cls)


def _record_errors() -> None:
    previous = sys.excepthook

    def record(kind, error, traceback):
        errors.append(error)
        previous(kind, error, traceback)

    sys.excepthook = record


def load_module(path):
    """Load a scripted module from its file and return ``slicer.modules.<name>``."""
    from Testing.host import module

    return module.load(path)


def select_module(name: str | None):
    """Show a module's panel, or none, and return the panel's Python object."""
    from Testing.host import module

    return module.select(name)


def unload_module(name: str) -> None:
    """Unload a scripted module; its panel's ``cleanup()`` runs."""
    from Testing.host import module

    module.unload(name)


def close_scene() -> None:
    """Close the scene as File / Close Scene does."""
    import slicer

    slicer.mrmlScene.Clear(False)
    slicer.app.processEvents()


def open_views(size: tuple[int, int] = (400, 300)):
    """Open Red, Green, Yellow and a 3D view, offscreen; see views.py."""
    from Testing.host import views

    return views.open_views(size)


def close_views() -> None:
    """Close the views that `open_views` opened."""
    from Testing.host import views

    views.close_views()


def open_window(module: str | None = None, size: tuple[int, int] = (1280, 800)):
    """Open a main window with a module's panel and four views; see window.py."""
    from Testing.host import window

    return window.open_window(module, size)
