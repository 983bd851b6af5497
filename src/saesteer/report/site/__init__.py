"""The report to walk through: a folder of static pages that a browser opens from disk, made from an experiment's tables."""
