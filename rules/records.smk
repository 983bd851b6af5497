# Feature records: the texts in which each feature is most active, and the topic that they share.


rule activations:
    """SAE codes of a corpus of one's own, sparse."""
    input:
        unpack(step_inputs("activations")),
        texts_file=file_of("texts"),
    output:
        manifest=f"{DATA}/{{experiment}}/activations/{{layers}}.json",
    resources:
        **gpu_job("activations"),
    params:
        **wants("activations"),
        code=code("activations.py"),
    script:
        "../scripts/activations.py"


rule records:
    """The texts with each feature's largest activations."""
    input:
        unpack(step_inputs("records")),
        model_files=fetched("model"),
        model=f"{DATA}/{{experiment}}/pins/model.json",
        texts_file=file_of("texts"),
    output:
        manifest=f"{DATA}/{{experiment}}/records/{{layers}}.json",
    wildcard_constraints:
        experiment=only(lambda experiment: isinstance(experiment.records, LocalRecords)),
    params:
        **wants("records"),
        code=code("records.py"),
    script:
        "../scripts/records.py"


rule neuronpedia_records:
    """The same from Neuronpedia, with explanations."""
    output:
        manifest=f"{DATA}/{{experiment}}/records/{{layers}}.json",
    wildcard_constraints:
        experiment=only(lambda experiment: not isinstance(experiment.records, LocalRecords)),
    threads: 8  # of the submitting host, so that few run at once: each has several requests under way
    params:
        **wants("records"),
        code=code("neuronpedia_records.py"),
        sections=setting("records", "saes"),
    script:
        "../scripts/neuronpedia_records.py"


rule concepts:
    """The topic with the highest lift in each feature's records, or what Neuronpedia says the feature means."""
    input:
        unpack(step_inputs("concepts")),
        unpack(topic_files),
    output:
        manifest=f"{DATA}/{{experiment}}/concepts/{{layers}}.json",
    params:
        **wants("concepts"),
        code=code("concepts.py"),
    script:
        "../scripts/concepts.py"
