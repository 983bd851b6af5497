"""Figures: each a pure view of validated tables, saved with the data drawn. No model, no torch.

A module here with a `FIGURE` is a figure: it declares what it reads, which experiments have it and its caption, says how it is drawn, and
saesteer.figures.registry collects it. The others are what figures share. None imports matplotlib before it draws, since planning reads the
declarations too.
"""
