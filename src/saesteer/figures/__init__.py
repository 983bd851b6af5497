"""Figures: each a pure view of one validated table (the overview: of several), saved with the data drawn. No model, no torch."""
