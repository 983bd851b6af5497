"""Tables that are made from tables, by kind of experiment: which experiments have them, and how they are computed."""
