"""Results as charts, tables, a page, and files for other programs."""
