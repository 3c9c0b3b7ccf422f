"""Fair comparison: models of equal cost, experiments over seeds, statistics and the report.

``matching`` finds the model that costs as much as another. ``experiment`` trains what a file asks
for. ``runs`` reads finished runs, ``references`` the curves of others; ``statistics`` are pure
functions on their losses, ``findings`` all that they say. ``table``, ``plots`` and ``report`` are
what people read.
"""
