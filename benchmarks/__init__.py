"""Timings against rivals and the least that the hardware allows. Not a part of the package."""
