"""Reference pages of the documentation, generated from settings, tables, methods and the SAEs that sae-lens lists."""
