"""Reference pages of the documentation, generated from the settings and from the SAEs that sae-lens lists."""
