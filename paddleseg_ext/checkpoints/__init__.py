"""Reading weights safely, loading them strictly, and saving training states atomically."""
