"""Whole segmentors: one architecture, one file."""
