"""The module ``qt``: PySide6 with the behaviour of PythonQt.

- A Qt property is an attribute: ``button.text = "Apply"`` works, ``button.text()`` raises.
- Reading or writing an attribute that the C++ class does not have raises.
- ``button.connect("clicked(bool)", f)`` and ``disconnect`` take signatures; an unknown signal
  raises (the application only warns); a slot gets as many arguments as it takes.
- ``exec_``, ``delete``, ``className()`` and ``name`` exist; enumerators need no scope.

:func:`install` changes PySide6's classes in place, once per process.
"""

from __future__ import annotations

import contextlib
import ctypes
import inspect
import re
import sys
import types

import shiboken6
from PySide6 import QtCore, QtGui, QtTest, QtUiTools, QtWidgets

_MODULES = (QtCore, QtGui, QtWidgets, QtUiTools, QtTest)
_get_attribute = QtCore.QObject.__getattribute__
_qt_connect = QtCore.QObject.connect
_qt_disconnect = QtCore.QObject.disconnect
_connections: dict[tuple, list] = {}
_loading_ui: list[bool] = []
_properties: dict[type, frozenset[str]] = {}


@contextlib.contextmanager
def loading_ui():
    """Ignore the children that PySide6 sets as attributes of the root while it loads a .ui file."""
    _loading_ui.append(True)
    try:
        yield
    finally:
        _loading_ui.pop()


class PropertyAttribute:
    """Descriptor of a Qt property; on the class it returns PySide6's function of that name.

    Some names, such as ``QTimer.singleShot``, belong to both a property and a function.
    """

    def __init__(self, owner: type, name: str):
        self.name = name
        function = getattr(owner, name, None)
        self.function = function if callable(function) else None
        self.setter = getattr(owner, "set" + name[:1].upper() + name[1:], None)
        meta_object = owner.staticMetaObject
        self.property = meta_object.property(meta_object.indexOfProperty(name))

    def __get__(self, instance, owner=None):
        if instance is None:
            return self.function or self
        if self.function is not None and not isinstance(self.function, types.BuiltinFunctionType):
            return self.function(instance)
        return QtCore.QObject.property(instance, self.name)

    def __set__(self, instance, value):
        if not self.property.isWritable():
            raise AttributeError(f"{instance.className()}.{self.name} cannot be written")
        if self.setter is not None and not isinstance(self.setter, types.BuiltinFunctionType):
            self.setter(instance, value)
        elif not QtCore.QObject.setProperty(instance, self.name, value):
            raise ValueError(f"{instance.className()}.{self.name} cannot be {value!r}")


def native(cls: type) -> type:
    """Restrict a Python class like a C++ one: only declared attributes can be set.

    Names that begin with an underscore are private to the class and stay free.
    """
    cls._is_native = True
    cls.__setattr__ = _set_declared_attribute
    return cls


def stored(name: str, kind, default, changed: str | None = None, signal: str | None = None):
    """Return a Qt property that stores its value.

    Args:
        name: name of the property.
        kind: Python type, or the name of a C++ type; "QStringList" is read as a tuple, as in
            PythonQt.
        default: value before the first write.
        changed: name of the method that a change calls, or None.
        signal: name of the signal that a change emits with the value, or None.
    """

    def read(self):
        return self.__dict__.setdefault("_values", {}).get(name, default)

    def write(self, value):
        if kind == "QStringList":
            value = tuple(item for item in value if item)
        elif kind in (bool, int, float, str):
            value = kind(value)
        if value == read(self):
            return
        self.__dict__["_values"][name] = value
        if changed:
            getattr(self, changed)()
        if signal:
            getattr(self, signal).emit(value)

    return QtCore.Property(kind, read, write)


def alike(base: type, name: str) -> type:
    """Return a class of the given name that behaves like `base`."""
    return native(type(name, (base,), {"__doc__": f"{name}: a {base.__name__} here."}))


def property_names(cls: type) -> set[str]:
    """Return the Qt properties of a class, declared in Python or inherited from a C++ class.

    The meta object is not used: PySide6 may have released it with an instance of the class.
    """
    names = set()
    for base in cls.__mro__:
        if base in _properties:
            return names | _properties[base]
        names |= {key for key, value in vars(base).items() if isinstance(value, QtCore.Property)}
    return names


def is_native(cls: type) -> bool:
    """Return whether a class represents a C++ class rather than a Python class derived from one."""
    return cls.__module__.startswith("PySide6") or "_is_native" in cls.__dict__


def _set_declared_attribute(self, name, value):
    cls = type(self)
    declared = inspect.getattr_static(cls, name, None)
    if hasattr(type(declared), "__set__"):
        type(declared).__set__(declared, self, value)
        return
    if isinstance(declared, QtCore.Property):  # PySide6 defines no __set__ for it
        if declared.fset is None:
            raise AttributeError(f"{cls.__name__}.{name} cannot be written")
        declared.fset(self, value)
        return
    if isinstance(value, QtCore.SignalInstance):  # PySide6 stores a signal at its first look-up
        self.__dict__[name] = value
        return
    private = name.startswith("_") and not cls.__module__.startswith("PySide6")
    if is_native(cls) and not private:
        if _loading_ui:
            return
        raise AttributeError(
            f"Attribute '{name}' does not exist on {cls.__name__}: a C++ object takes no new ones"
        )
    self.__dict__[name] = value


def parse_signature(signature: str) -> tuple[str, list[str]]:
    """Split a signature such as ``"clicked(bool)"`` into its name and its argument types."""
    match = re.fullmatch(r"\s*(\w+)\s*\((.*)\)\s*", signature)
    if match is None:
        raise ValueError(f"'{signature}' is not a signal or slot: 'name(types)' is expected")
    return match[1], [part.strip() for part in match[2].split(",") if part.strip()]


def trimmed(function, count: int | None = None):
    """Wrap a function so that it gets at most `count` arguments and no more than it takes."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (
        TypeError,
        ValueError,
    ):  # a function of PySide6 has no signature; it raises if there are too many

        def call_refusing(*arguments):
            try:
                return function(*arguments[:count])
            except TypeError:
                return function()

        return call_refusing
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        limit = count
    else:
        takes = sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
        limit = takes if count is None else min(takes, count)
    return lambda *arguments: function(*arguments[:limit])


def _python_signal(instance, signature: str):
    """Return the signal of a host widget for a C++ signature, or None.

    Signals of host widgets carry Python objects; the class attribute ``signatures`` maps C++
    signatures to them.
    """
    normalized = re.sub(r"\s+|const |&", "", signature)
    for cls in type(instance).__mro__:
        for known, name in cls.__dict__.get("signatures", {}).items():
            if re.sub(r"\s+|const |&", "", known) == normalized:
                return getattr(instance, name)
    return None


def _connect(self, *arguments):
    if not (len(arguments) == 2 and isinstance(arguments[0], str) and callable(arguments[1])):
        static = bool(arguments) and isinstance(arguments[0], QtCore.QObject)
        return _qt_connect(*arguments) if static else _qt_connect(self, *arguments)
    signature, function = arguments
    _, types_ = parse_signature(signature)
    slot = trimmed(function, len(types_))
    signal = _python_signal(self, signature)
    if signal is not None:
        signal.connect(slot)

        def undo():
            signal.disconnect(slot)
    else:
        normalized = QtCore.QMetaObject.normalizedSignature(signature).data().decode()
        if self.metaObject().indexOfSignal(normalized) < 0:
            raise ValueError(f"signal '{signature}' does not exist on {self.className()}")
        # PySide6's attribute 'clicked' would select the overload without the argument.
        qt_signal = QtCore.SIGNAL(normalized)
        if not _qt_connect(self, qt_signal, slot):
            raise ValueError(f"{self.className()} cannot connect '{signature}'")

        def undo():
            _qt_disconnect(self, qt_signal, slot)

    _connections.setdefault(_connection_key(self, signature, function), []).append(undo)
    return True


def _disconnect(self, *arguments):
    if not (len(arguments) == 2 and isinstance(arguments[0], str) and callable(arguments[1])):
        static = bool(arguments) and isinstance(arguments[0], QtCore.QObject)
        return _qt_disconnect(*arguments) if static else _qt_disconnect(self, *arguments)
    undos = _connections.pop(_connection_key(self, *arguments), [])
    for undo in undos:
        undo()
    return bool(undos)


def _connection_key(instance, signature, function):
    return shiboken6.getCppPointer(instance)[0], re.sub(r"\s+", "", signature), function


def _hooked_get_attribute(self, name):
    # PySide6 looks up 'connect' in C before the class, so the look-up is replaced.
    if name == "connect":
        return types.MethodType(_connect, self)
    if name == "disconnect":
        return types.MethodType(_disconnect, self)
    return _get_attribute(self, name)


def _change_class(cls: type) -> None:
    meta_object = cls.staticMetaObject
    names = [meta_object.property(i).name() for i in range(meta_object.propertyCount())]
    _properties[cls] = frozenset(names)
    for index, name in enumerate(names):
        if index >= meta_object.propertyOffset() or name in cls.__dict__:
            setattr(cls, name, PropertyAttribute(cls, name))
    cls.__setattr__ = _set_declared_attribute  # every class of PySide6 defines __setattr__
    if "exec" in cls.__dict__:
        cls.exec_ = cls.__dict__["exec"]


def _keep_true_alive() -> None:
    """Add references to True, which PySide6 6.12.0 releases once too often in every ``emit``.

    Before Python 3.12, where True became immortal, a few hundred emits abort the process.
    """
    if sys.version_info < (3, 12) and QtCore.__version__ == "6.12.0":
        ctypes.c_ssize_t.from_address(id(True)).value += 1 << 30


def install() -> types.ModuleType:
    """Create the module ``qt``, change PySide6's classes, and return the module."""
    if "qt" in sys.modules:
        return sys.modules["qt"]
    _keep_true_alive()
    qt = types.ModuleType("qt", __doc__)
    for module in _MODULES:
        for name in dir(module):
            if name.startswith("Q") and not hasattr(qt, name):
                setattr(qt, name, getattr(module, name))
    classes = {c for c in vars(qt).values() if isinstance(c, type)}
    objects = [c for c in classes if issubclass(c, QtCore.QObject)]
    for cls in sorted(objects, key=lambda c: len(c.__mro__)):
        _change_class(cls)
    base = QtCore.QObject
    base.__getattribute__ = _hooked_get_attribute
    base.name = property(
        lambda self: base.property(self, "objectName"),
        lambda self, value: base.setProperty(self, "objectName", value),
    )
    base.className = lambda self: self.metaObject().className()
    base.delete = lambda self: shiboken6.delete(self)
    sys.modules["qt"] = qt
    return qt
