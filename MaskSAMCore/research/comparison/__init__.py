"""Comparison of several systems on one dataset with the same split, time budget and device.

Nothing is imported here, because each stage runs in a separate process with its own imports.
"""
