"""Several systems on one dataset, split, budget and device, measured by the same code.

Nothing is imported here: each stage is a process of its own, and starts with what it needs.
"""
