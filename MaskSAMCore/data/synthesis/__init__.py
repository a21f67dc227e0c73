"""Synthesis of training images from label maps."""
