"""What may be written beside a parameter's type: its default, and what its value must fulfil."""

from __future__ import annotations


class Default:
    """The value of a parameter that the node does not have yet."""

    def __init__(self, value=None, *, generator=None):
        self._value = value
        self._generator = generator

    @property
    def value(self):
        return self._generator() if self._generator else self._value


class Validator:
    """Base of all checks: `validate` raises ValueError (or TypeError) for a bad value."""

    def validate(self, value):
        raise NotImplementedError


class NotNone(Validator):
    """The value is not None."""

    def validate(self, value):
        if value is None:
            raise ValueError("Value must not be None")


class IsInstance(Validator):
    """The value is of a class, or None."""

    def __init__(self, classtype):
        self.classtype = classtype

    def validate(self, value):
        if value is not None and not isinstance(value, self.classtype):
            raise TypeError(f"Value must be of type '{self.classtype}', is {value!r}")


class WithinRange(Validator):
    """The value lies between two numbers, ends included."""

    def __init__(self, minimum, maximum):
        self.minimum, self.maximum = minimum, maximum

    def validate(self, value):
        if not self.minimum <= value <= self.maximum:
            raise ValueError(
                f"Value must be within range [{self.minimum}, {self.maximum}], is {value}"
            )


class Minimum(Validator):
    """The value is at least a number."""

    def __init__(self, minimum):
        self.minimum = minimum

    def validate(self, value):
        if value < self.minimum:
            raise ValueError(f"Value must be at least {self.minimum}, is {value}")


class Maximum(Validator):
    """The value is at most a number."""

    def __init__(self, maximum):
        self.maximum = maximum

    def validate(self, value):
        if value > self.maximum:
            raise ValueError(f"Value must be at most {self.maximum}, is {value}")


class Choice(Validator):
    """The value is one of several."""

    def __init__(self, choices):
        self.choices = choices

    def validate(self, value):
        if value not in self.choices:
            raise ValueError(f"Value must be one of {self.choices}, is {value!r}")


class Exclude(Validator):
    """The value is none of several."""

    def __init__(self, excludedValues):
        self.excludedValues = excludedValues

    def validate(self, value):
        if value in self.excludedValues:
            raise ValueError(f"Value must be none of {self.excludedValues}, is {value!r}")
