"""Results as files that other programs read: Neuronpedia's max-activating examples, AxBench's table, vectors that are frozen and measured
first."""
