"""Side-by-side measurements, and the reports they write."""
