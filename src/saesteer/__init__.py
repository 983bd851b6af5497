"""saesteer: which SAE feature to steer a language model with, how hard, and is it better than the alternatives?"""
