"""Backbones, and the classifiers they come from: one architecture, one file."""
