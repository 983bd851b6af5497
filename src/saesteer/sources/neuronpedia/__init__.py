"""Max-activating examples and explanations from Neuronpedia, through its API or its bulk exports; and our max-activating examples in its
form."""
