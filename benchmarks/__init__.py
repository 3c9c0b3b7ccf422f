"""Timings against other libraries and hardware limits. Not part of the package."""
