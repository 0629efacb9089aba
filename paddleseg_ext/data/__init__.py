"""Data sets, their inspection, class names and colours, image reading and rendering of results."""
