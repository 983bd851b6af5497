"""`saesteer recommend`: candidates, their texts, and which feature to steer with, how hard, and beside what."""
