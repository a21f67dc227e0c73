"""Comparison of several systems on one dataset with the same split, time budget and device.

Nothing is imported here: each stage runs in a process of its own and imports only its own needs.
"""
