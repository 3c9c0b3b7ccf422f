"""Fair comparison: experiments over seeds, statistics and the report.

``experiment`` reads a file of variants and seeds, ``planning`` turns it into runs and ``training``
trains the missing ones; ``search`` does the same for a search of settings. ``runs`` reads finished
runs, ``references`` the curves of others; ``statistics`` are pure functions of losses, ``findings``
the results. ``table``, ``plots`` and ``report`` present them.
"""
