"""Exported programs at work: a Runner per backend, and the pre- and post-processing around it.

Nothing here imports model code: an exported folder runs without the sources of its model.
"""
