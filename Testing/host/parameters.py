"""Replacement for ``slicer.parameterNodeWrapper``: typed parameters in a node of the scene.

::

    @parameterNodeWrapper
    class Parameters:
        volume: vtkMRMLScalarVolumeNode | None
        opacity: Annotated[float, WithinRange(0, 1)] = 0.5

Types: ``str``, ``bool``, ``int``, ``float``, paths, enumerations, MRML nodes, and unions of these,
``None`` included. They are stored in the ``vtkMRMLScriptedModuleNode`` in Slicer's own form. Lists,
tuples, dictionaries, parameter packs and caching are not supported.

As in Slicer, only the exact class of a widget counts: an instance of a class derived from QCheckBox
cannot be connected.
"""

from __future__ import annotations

import enum
import pathlib
import types
import typing
from dataclasses import dataclass

import ctk
import qt
import slicer
import vtk

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


# Annotations of a parameter: its default, and checks of its value.


class Default:
    """Default value of a parameter."""

    def __init__(self, value=None, *, generator=None):
        self._value = value
        self._generator = generator

    @property
    def value(self):
        return self._generator() if self._generator else self._value


class Validator:
    """Base of all validators; `validate` raises ValueError or TypeError for an invalid value."""

    def validate(self, value):
        raise NotImplementedError


class NotNone(Validator):
    """Validator that rejects None."""

    def validate(self, value):
        if value is None:
            raise ValueError("Value must not be None")


class IsInstance(Validator):
    """Validator that accepts instances of a class, and None."""

    def __init__(self, classtype):
        self.classtype = classtype

    def validate(self, value):
        if value is not None and not isinstance(value, self.classtype):
            raise TypeError(f"Value must be of type '{self.classtype}', is {value!r}")


class WithinRange(Validator):
    """Validator of a closed range."""

    def __init__(self, minimum, maximum):
        self.minimum, self.maximum = minimum, maximum

    def validate(self, value):
        if not self.minimum <= value <= self.maximum:
            raise ValueError(
                f"Value must be within range [{self.minimum}, {self.maximum}], is {value}"
            )


class Minimum(Validator):
    """Validator of a lower bound."""

    def __init__(self, minimum):
        self.minimum = minimum

    def validate(self, value):
        if value < self.minimum:
            raise ValueError(f"Value must be at least {self.minimum}, is {value}")


class Maximum(Validator):
    """Validator of an upper bound."""

    def __init__(self, maximum):
        self.maximum = maximum

    def validate(self, value):
        if value > self.maximum:
            raise ValueError(f"Value must be at most {self.maximum}, is {value}")


class Choice(Validator):
    """Validator that accepts the given values only."""

    def __init__(self, choices):
        self.choices = choices

    def validate(self, value):
        if value not in self.choices:
            raise ValueError(f"Value must be one of {self.choices}, is {value!r}")


class Exclude(Validator):
    """Validator that rejects the given values."""

    def __init__(self, excludedValues):
        self.excludedValues = excludedValues

    def validate(self, value):
        if value in self.excludedValues:
            raise ValueError(f"Value must be none of {self.excludedValues}, is {value!r}")


# Connections between widgets and parameters.


@dataclass
class Decimals:
    """Number of decimals that a widget shows."""

    value: int


@dataclass
class SingleStep:
    """Step of a widget's arrows."""

    value: float


class GuiConnector:
    """Connection to a widget's value: a property and the signal of its change."""

    def __init__(self, widget, attribute, signal):
        self._widget, self._attribute = widget, attribute
        self._signal = getattr(widget, signal) if signal else None
        self._callback = None

    def widget(self):
        return self._widget

    def onChanged(self, callback):
        if self._callback is not None and self._signal is not None:
            self._signal.disconnect(self._changed)
        self._callback = callback
        if callback is not None and self._signal is not None:
            self._signal.connect(self._changed)

    def _changed(self, *_):
        if self._callback is not None:
            self._callback()

    def read(self):
        return getattr(self._widget, self._attribute)

    def write(self, value):
        if value != self.read():
            setattr(self._widget, self._attribute, value)


class _Number(GuiConnector):
    def __init__(self, widget, kind, annotations):
        super().__init__(widget, "value", "valueChanged")
        self._kind = kind
        floating = not isinstance(widget, (qt.QSpinBox, qt.QSlider))
        decimals, step = _find(annotations, Decimals), _find(annotations, SingleStep)
        if floating and type(widget) is ctk.ctkDoubleSlider:
            pass  # the slider shows no digits
        elif floating and kind is int:
            widget.decimals = 0
        elif floating and decimals is not None:
            widget.decimals = decimals.value
        if step is not None:
            widget.singleStep = step.value
        within = _find(annotations, WithinRange)
        low, high = _find(annotations, Minimum), _find(annotations, Maximum)
        low = within.minimum if within else low.minimum if low else None
        high = within.maximum if within else high.maximum if high else None
        slides = type(widget) in (qt.QSlider, ctk.ctkSliderWidget, slicer.qMRMLSliderWidget)
        if slides and (low is None or high is None):
            raise RuntimeError(f"Cannot have a connection to {widget.className()} without a range")
        unbounded = float("inf") if floating else 2**31 - 1
        widget.setRange(
            (-unbounded - (not floating)) if low is None else low,
            unbounded if high is None else high,
        )

    def read(self):
        return self._kind(self._widget.value)

    def write(self, value):
        self._widget.value = value if isinstance(value, int) else float(value)


class _Items(GuiConnector):
    def __init__(self, widget, items):
        super().__init__(widget, "currentIndex", "currentIndexChanged")
        self._values = [value for _, value in items]
        widget.clear()
        widget.addItems([label for label, _ in items])

    def read(self):
        return self._values[self._widget.currentIndex]

    def write(self, value):
        if value not in self._values:
            raise ValueError(f"Unable to find value {value} in choices {self._values}")
        self._widget.currentIndex = self._values.index(value)


class _Path(GuiConnector):
    def __init__(self, widget, attribute, signal, kind):
        super().__init__(widget, attribute, signal)
        self._kind = kind

    def read(self):
        return self._kind(super().read())

    def write(self, value):
        setattr(self._widget, self._attribute, str(value))


class _Node(GuiConnector):
    def __init__(self, widget, kinds):
        super().__init__(widget, "currentNode", "currentNodeChanged")
        widget.nodeTypes = [kind.__name__ for kind in kinds]

    def read(self):
        return self._widget.currentNode()

    def write(self, value):
        self._widget.setCurrentNode(value)


class _CheckablePushButton(GuiConnector):
    def __init__(self, widget):
        super().__init__(widget, "checked", "toggled")

    def write(self, value):
        if self._widget.checkBoxControlsButtonToggleState:
            self._widget.checkable = value
        if value or not self._widget.checkBoxControlsButtonToggleState:
            self._widget.checked = value


def _find(annotations, kind):
    return next((a for a in annotations if isinstance(a, kind)), None)


def _node_kinds(kind):
    """Return the node classes of a type or union (which may include None), or an empty list."""
    union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    kinds = [k for k in (typing.get_args(kind) if union else (kind,)) if k is not types.NoneType]
    nodes = all(isinstance(k, type) and issubclass(k, slicer.vtkMRMLNode) for k in kinds)
    return kinds if nodes else []


_FLOATING = ("qt.QDoubleSpinBox", "ctk.ctkSliderWidget", "slicer.qMRMLSliderWidget",
             "ctk.ctkDoubleSlider", "ctk.ctkDoubleSpinBox", "slicer.qMRMLSpinBox")  # fmt: skip


def createGuiConnector(widget, kind, annotations=()):
    """Create the connector of a widget and a type; raise RuntimeError if they do not match."""
    connector = _create(widget, type(widget), kind, annotations)
    if connector is None:
        raise RuntimeError(f"Unable to create GUI connector from {type(widget).__name__} to {kind}")
    return connector


def _create(widget, cls, kind, annotations):
    floating = tuple(
        getattr({"qt": qt, "ctk": ctk, "slicer": slicer}[module], name)
        for module, name in (entry.split(".") for entry in _FLOATING)
    )
    if cls is slicer.qMRMLNodeComboBox and _node_kinds(kind):
        return _Node(widget, _node_kinds(kind))
    if not isinstance(kind, type):
        return None
    if kind is bool and cls in (qt.QCheckBox, ctk.ctkCheckBox):
        return GuiConnector(widget, "checked", "toggled")
    if kind is bool and cls is qt.QPushButton:
        widget.checkable = True
        return GuiConnector(widget, "checked", "toggled")
    if kind is bool and cls is ctk.ctkCheckablePushButton:
        return _CheckablePushButton(widget)
    if kind is int and cls in (qt.QSlider, qt.QSpinBox):
        return _Number(widget, kind, annotations)
    if kind in (int, float) and cls in floating:
        return _Number(widget, kind, annotations)
    if cls in (qt.QComboBox, ctk.ctkComboBox):
        if issubclass(kind, enum.Enum):
            label = getattr(kind, "label", lambda member: member.name)
            return _Items(widget, [(label(member), member) for member in kind])
        choice = _find(annotations, Choice)
        if choice is None:
            raise RuntimeError("a combo box for text or numbers needs the Choice annotation")
        return _Items(widget, [(str(value), value) for value in choice.choices])
    if kind is str and cls is qt.QLineEdit:
        return GuiConnector(widget, "text", "textChanged")
    if kind is str and cls is qt.QLabel:
        return GuiConnector(widget, "text", None)
    if kind is str and cls is qt.QTextEdit:
        return GuiConnector(widget, "plainText", "textChanged")
    if issubclass(kind, pathlib.PurePath) and cls is ctk.ctkPathLineEdit:
        return _Path(widget, "currentPath", "currentPathChanged", kind)
    if issubclass(kind, pathlib.PurePath) and cls is ctk.ctkDirectoryButton:
        return _Path(widget, "directory", "directoryChanged", kind)
    return None


# Parameters in a node


class _Serializer:
    """Conversion of one parameter of a given type to and from the node."""

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
    """Return a type without its annotations, and the annotations."""
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
    """Descriptor of one parameter of a wrapper class."""

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
    """Members that the decorator adds to a wrapper class."""

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
        """Connect all widgets with the property SlicerParameterName; return a tag."""
        if isinstance(gui, qt.QWidget):
            widgets = gui.findChildren(qt.QWidget)
        else:
            widgets = gui.__dict__.values()
        named = ((w.property(SlicerParameterNamePropertyName), w) for w in widgets)
        return self.connectParametersToGui({name: widget for name, widget in named if name})

    def connectParametersToGui(self, mapping):
        """Connect widgets by parameter name; return a tag for `disconnectGui`."""
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
    """Turn an annotated class into a typed view of a parameter node: ``Parameters(node)``."""
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
    """Return whether a class or object was made by the decorator."""
    return getattr(class_or_object, "_is_parameter_node_wrapper", False)


def findChildWidgetForParameter(widget, parameter):
    """Return the child of `widget` that is connected to a parameter, or None."""
    for child in widget.findChildren(qt.QWidget):
        if child.property(SlicerParameterNamePropertyName) == parameter:
            return child
    return None
