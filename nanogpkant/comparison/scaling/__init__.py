"""Scaling laws: how the loss of kinds of model falls with parameters and training tokens.

``study`` reads a study's file and ``cells`` turns it into runs; ``law`` is the fit, a pure function
of losses, ``findings`` what it says of a study, and ``report`` writes that.
"""
