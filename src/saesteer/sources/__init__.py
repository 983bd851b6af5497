"""What comes from outside: the hub, published files, Neuronpedia, corpora, feature lists, prefixes, and the digests that pin them."""
