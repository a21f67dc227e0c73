"""Estimation of the Dice of results: corrupted images, results on them, and the fit."""
