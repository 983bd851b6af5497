"""Results as files that other programs read: Neuronpedia's records, AxBench's table, vectors that are frozen and measured first."""
