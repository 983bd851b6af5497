"""One module for each rule that makes tables from tables: the tables, which experiments have them, and how they are computed."""
