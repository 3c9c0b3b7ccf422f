"""Fair comparison: experiments over seeds, statistics and the report.

``experiment`` reads a file of variants and seeds, ``planning`` turns it into runs and ``training``
trains the missing ones; ``search`` does the same for a search of settings. ``launch`` is where
runs are trained. ``runs`` reads finished ones, ``references`` the curves of others; ``statistics``
are pure functions of losses, ``findings`` the results, ``declared`` the verdicts. ``table``,
``charts``, ``sections`` and ``report`` present them.
"""
