"""Results to read: a folder of static pages that a browser opens from disk, and tables in Markdown."""
