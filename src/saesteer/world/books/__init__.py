"""The topic judge of natural English."""
