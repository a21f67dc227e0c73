"""NRRD inputs of many kinds, with the outcome of reading each."""

from __future__ import annotations

from Testing.helpers.input_cases import InputCase

CASES: list[InputCase] = []
