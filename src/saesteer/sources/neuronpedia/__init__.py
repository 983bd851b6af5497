"""Feature records and explanations from Neuronpedia, through its API or its bulk exports; and our records in its form."""
