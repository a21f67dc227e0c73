"""Segmentation with a plain SAM or MedSAM, prompted by boxes."""
