"""A stand-in for ``slicer.parameterNodeWrapper``: typed parameters, kept in a node of the scene.

::

    @parameterNodeWrapper
    class Parameters:
        volume: vtkMRMLScalarVolumeNode | None
        opacity: Annotated[float, WithinRange(0, 1)] = 0.5

Types: ``str``, ``bool``, ``int``, ``float``, paths, enumerations, MRML nodes, and unions of these,
``None`` included. They are written into the ``vtkMRMLScriptedModuleNode`` in the form Slicer writes
them. Not here: lists, tuples, dictionaries, parameter packs, caching.
"""

from __future__ import annotations

import enum
import pathlib
import types
import typing

import qt
import slicer
import vtk

from Testing.host.connectors import Decimals, GuiConnector, SingleStep, createGuiConnector
from Testing.host.validators import (
    Choice,
    Default,
    Exclude,
    IsInstance,
    Maximum,
    Minimum,
    NotNone,
    Validator,
    WithinRange,
)

__all__ = [
    "Choice",
    "Decimals",
    "Default",
    "Exclude",
    "IsInstance",
    "Maximum",
    "Minimum",
    "NotNone",
    "SingleStep",
    "SlicerParameterNamePropertyName",
    "Validator",
    "WithinRange",
    "findChildWidgetForParameter",
    "isParameterNodeWrapper",
    "parameterNodeWrapper",
]

SlicerParameterNamePropertyName = "SlicerParameterName"
_NAMES_TAKEN = ("allParameters", "parameterNode")


class _Serializer:
    """Writes one parameter of one type into the node, and reads it back."""

    def __init__(self, kind, validators=()):
        self.kind = kind
        self.validators = [v() if isinstance(v, type) else v for v in validators]
        self.members = None
        if typing.get_origin(kind) in (typing.Union, types.UnionType):
            self.members = [_serializer(member) for member in typing.get_args(kind)]
        elif not self._is_node() and not (
            isinstance(kind, type)
            and issubclass(
                kind, (str, bool, int, float, enum.Enum, pathlib.PurePath, types.NoneType)
            )
        ):
            raise TypeError(f"the host has no parameters of type {kind}")

    def _is_node(self):
        return isinstance(self.kind, type) and issubclass(self.kind, slicer.vtkMRMLNode)

    def default(self):
        if self.members is not None:
            nothing = any(member.kind is types.NoneType for member in self.members[1:])
            return None if nothing and len(self.members) == 2 else self.members[0].default()
        if self._is_node() or self.kind is types.NoneType:
            return None
        return next(iter(self.kind)) if issubclass(self.kind, enum.Enum) else self.kind()

    def check(self, value):
        if self.members is None and not (value is None and self._is_node()):
            accepted = (int, float) if self.kind is float else self.kind
            wrong = self.kind in (int, float) and isinstance(value, bool)
            if not isinstance(value, accepted) or wrong:
                raise TypeError(f"{value!r} is not of type {self.kind.__name__}")
        for validator in self.validators:
            validator.validate(value)

    def is_in(self, node, name):
        if self.members is not None:
            return any(m.is_in(node, f"{name}.{i}") for i, m in enumerate(self.members))
        return node.HasParameter(name)

    def write(self, node, name, value):
        self.check(value)
        if self.members is not None:
            self._write_member(node, name, value)
        elif self._is_node():
            node.SetParameter(name, "")
            node.SetNodeReferenceID(name, value.GetID() if value is not None else None)
        elif self.kind is types.NoneType:
            node.SetParameter(name, "True")
        else:
            text = value.name if isinstance(value, enum.Enum) else str(self.kind(value))
            node.SetParameter(name, text)

    def _write_member(self, node, name, value):
        problem = None
        for index, member in enumerate(self.members):
            try:
                if value is None and member.kind is not types.NoneType:
                    raise TypeError("None")
                member.check(value)
            except (TypeError, ValueError) as error:
                problem = error
                continue
            with slicer.util.NodeModify(node):
                self.remove(node, name)
                member.write(node, f"{name}.{index}", value)
            return
        raise TypeError(f"{value!r} fits none of {self.kind}") from problem

    def read(self, node, name):
        if self.members is not None:
            for index, member in enumerate(self.members):
                if member.is_in(node, f"{name}.{index}"):
                    return member.read(node, f"{name}.{index}")
            raise KeyError(name)
        if self._is_node():
            return node.GetNodeReference(name)
        text = node.GetParameter(name)
        if self.kind is types.NoneType:
            return None
        if issubclass(self.kind, bool):
            return text == "True"
        return self.kind[text] if issubclass(self.kind, enum.Enum) else self.kind(text)

    def remove(self, node, name):
        if self.members is not None:
            for index, member in enumerate(self.members):
                member.remove(node, f"{name}.{index}")
            return
        node.UnsetParameter(name)
        if self._is_node():
            node.RemoveNodeReferenceIDs(name)


def _split(annotated):
    """A type and the annotations on it."""
    if typing.get_origin(annotated) is typing.Annotated:
        kind, *annotations = typing.get_args(annotated)
        return kind, annotations
    return annotated, []


def _serializer(annotated):
    kind, annotations = _split(annotated)
    return _Serializer(kind, [a for a in annotations if _is_validator(a)])


def _is_validator(annotation):
    return isinstance(annotation, Validator) or (
        isinstance(annotation, type) and issubclass(annotation, Validator)
    )


class _Parameter:
    """The attribute of a wrapper class for one parameter."""

    def __init__(self, name, annotated, default):
        self.name = name
        self.unalteredType = annotated
        self.serializer = _serializer(annotated)
        self.default = default or Default(self.serializer.default())

    def __get__(self, wrapper, owner=None):
        if wrapper is None:
            return self
        if not self.serializer.is_in(wrapper.parameterNode, self.name):
            self.__set__(wrapper, self.default.value)
        return self.serializer.read(wrapper.parameterNode, self.name)

    def __set__(self, wrapper, value):
        with slicer.util.NodeModify(wrapper.parameterNode):
            self.serializer.write(wrapper.parameterNode, self.name, value)


class _Wrapper:
    """What the decorator gives every wrapper class."""

    allParameters: typing.ClassVar[dict[str, _Parameter]]
    _is_parameter_node_wrapper = True

    def _initialize(self, parameterNode):
        self.parameterNode = parameterNode
        self._guis = {}
        self._next_tag = 0
        self._updating = False
        for parameter in self.allParameters.values():
            if not parameter.serializer.is_in(parameterNode, parameter.name):
                parameter.__set__(self, parameter.default.value)

    def _parameter(self, name):
        if name not in self.allParameters:
            raise ValueError(f"no parameter '{name}' among {sorted(self.allParameters)}")
        return self.allParameters[name]

    def getValue(self, name):
        return self._parameter(name).__get__(self)

    def setValue(self, name, value):
        self._parameter(name).__set__(self, value)

    def default(self, name):
        return self._parameter(name).default

    def dataType(self, name):
        return self._parameter(name).unalteredType

    def connectGui(self, gui):
        """Tie every widget that has the property SlicerParameterName; returns a tag."""
        if isinstance(gui, qt.QWidget):
            widgets = gui.findChildren(qt.QWidget)
        else:
            widgets = gui.__dict__.values()
        named = ((w.property(SlicerParameterNamePropertyName), w) for w in widgets)
        return self.connectParametersToGui({name: widget for name, widget in named if name})

    def connectParametersToGui(self, mapping):
        """Tie widgets by parameter name; returns a tag for `disconnectGui`."""
        connectors = {
            name: widget
            if isinstance(widget, GuiConnector)
            else createGuiConnector(widget, *_split(self.dataType(name)))
            for name, widget in mapping.items()
        }
        for name, connector in connectors.items():
            connector.write(self.getValue(name))
            connector.onChanged(lambda name=name, c=connector: self._on_widget(name, c))
        tag, self._next_tag = self._next_tag, self._next_tag + 1
        observer = self.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self._update_guis())
        self._guis[tag] = (connectors, observer)
        return tag

    def disconnectGui(self, tag):
        if tag not in self._guis:
            return
        connectors, observer = self._guis.pop(tag)
        for connector in connectors.values():
            connector.onChanged(None)
        self.RemoveObserver(observer)

    def _on_widget(self, name, connector):
        if not self._updating:
            with slicer.util.NodeModify(self.parameterNode):
                self.setValue(name, connector.read())

    def _update_guis(self):
        if self._updating:
            return
        self._updating = True
        try:
            with slicer.util.NodeModify(self.parameterNode):
                for connectors, _ in self._guis.values():
                    for name, connector in connectors.items():
                        connector.write(self.getValue(name))
        finally:
            self._updating = False

    def StartModify(self):
        return self.parameterNode.StartModify()

    def EndModify(self, wasModified):
        return self.parameterNode.EndModify(wasModified)

    def AddObserver(self, event, callback, priority=0.0):
        return self.parameterNode.AddObserver(event, callback, priority)

    def RemoveObserver(self, tag):
        self.parameterNode.RemoveObserver(tag)

    def Modified(self):
        self.parameterNode.Modified()


def parameterNodeWrapper(cls=None):
    """Make an annotated class a typed view of a parameter node: ``Parameters(node)``."""
    if cls is None:
        return parameterNodeWrapper
    parameters = {}
    for name, annotated in typing.get_type_hints(cls, include_extras=True).items():
        if hasattr(_Wrapper, name) or name in _NAMES_TAKEN:
            raise ValueError(f"Cannot use reserved name '{name}' in a parameterNodeWrapper")
        defaults = [a for a in _split(annotated)[1] if isinstance(a, Default)]
        if name in cls.__dict__:
            defaults = [Default(cls.__dict__[name])]
        parameters[name] = _Parameter(name, annotated, defaults[0] if defaults else None)
        setattr(cls, name, parameters[name])
    cls.allParameters = parameters
    for name, member in vars(_Wrapper).items():
        if not name.startswith("__"):
            setattr(cls, name, member)
    cls.__init__ = _Wrapper._initialize
    return cls


def isParameterNodeWrapper(class_or_object):
    """Whether the decorator made it."""
    return getattr(class_or_object, "_is_parameter_node_wrapper", False)


def findChildWidgetForParameter(widget, parameter):
    """The widget below `widget` that is tied to a parameter, or None."""
    for child in widget.findChildren(qt.QWidget):
        if child.property(SlicerParameterNamePropertyName) == parameter:
            return child
    return None
