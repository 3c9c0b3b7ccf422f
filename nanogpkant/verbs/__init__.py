"""The verbs: one function for the shell and for Python, named and documented once.

A verb's flags are its parameters, its help is its docstring, and it returns an ``Answer``. Nothing
here imports torch at its top, so that ``--help`` answers at once; the work is done in the rooms
below.
"""
