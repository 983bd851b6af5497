"""What other programs read and give: vectors, Neuronpedia's and AxBench's forms, texts from elsewhere, lm-evaluation-harness."""
