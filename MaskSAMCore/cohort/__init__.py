"""Segmentation of many scans: finding the cases, running them, and the table of the run."""
