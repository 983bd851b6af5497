# Feature records: the texts in which each feature is most active, and the topic that they share.


rule activations:
    """SAE codes of a corpus of one's own, sparse."""
    input:
        model_files=fetched("model"),
        sae_files=fetched_saes,
        model=f"{DATA}/{{experiment}}/pins/model.json",
        saes=f"{DATA}/{{experiment}}/saes/{{layers}}.json",
        texts_file=file_of("texts"),
    output:
        manifest=f"{DATA}/{{experiment}}/activations/{{layers}}.json",
    log:
        "logs/{experiment}/activations/{layers}.log",
    benchmark:
        "logs/{experiment}/activations/{layers}.tsv"
    conda:
        "../envs/saesteer.yaml"
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
        model_files=fetched("model"),
        model=f"{DATA}/{{experiment}}/pins/model.json",
        texts=f"{DATA}/{{experiment}}/pins/texts.json",
        activations=f"{DATA}/{{experiment}}/activations/{{layers}}.json",
        texts_file=file_of("texts"),
    output:
        manifest=f"{DATA}/{{experiment}}/records/{{layers}}.json",
    log:
        "logs/{experiment}/records/{layers}.log",
    benchmark:
        "logs/{experiment}/records/{layers}.tsv"
    wildcard_constraints:
        experiment=only(lambda experiment: isinstance(experiment.records, LocalRecords)),
    conda:
        "../envs/saesteer.yaml"
    params:
        **wants("records"),
        code=code("records.py"),
    script:
        "../scripts/records.py"


rule neuronpedia_records:
    """The same from Neuronpedia, with explanations."""
    output:
        manifest=f"{DATA}/{{experiment}}/records/{{layers}}.json",
    log:
        "logs/{experiment}/neuronpedia_records/{layers}.log",
    benchmark:
        "logs/{experiment}/neuronpedia_records/{layers}.tsv"
    wildcard_constraints:
        experiment=only(lambda experiment: not isinstance(experiment.records, LocalRecords)),
    conda:
        "../envs/saesteer.yaml"
    threads: 8  # of the submitting host, so that few run at once: each has several requests under way
    params:
        **wants("records"),
        code=code("neuronpedia_records.py"),
        sections=setting("records", "saes"),
    script:
        "../scripts/neuronpedia_records.py"


rule concepts:
    """The topic with the highest lift in each feature's records."""
    input:
        texts=f"{DATA}/{{experiment}}/pins/texts.json",
        topics=f"{DATA}/{{experiment}}/pins/topics.json",
        records=f"{DATA}/{{experiment}}/records/{{layers}}.json",
        texts_file=file_of("texts"),
        topics_file=file_of("topics"),
    output:
        manifest=f"{DATA}/{{experiment}}/concepts/{{layers}}.json",
    log:
        "logs/{experiment}/concepts/{layers}.log",
    benchmark:
        "logs/{experiment}/concepts/{layers}.tsv"
    wildcard_constraints:
        experiment=only(lambda experiment: isinstance(experiment.concepts, TopicConcepts)),
    conda:
        "../envs/saesteer.yaml"
    params:
        **wants("concepts"),
        code=code("concepts.py"),
    script:
        "../scripts/concepts.py"


rule explanations:
    """What Neuronpedia says each feature means, as its concept."""
    input:
        records=f"{DATA}/{{experiment}}/records/{{layers}}.json",
    output:
        manifest=f"{DATA}/{{experiment}}/concepts/{{layers}}.json",
    log:
        "logs/{experiment}/explanations/{layers}.log",
    benchmark:
        "logs/{experiment}/explanations/{layers}.tsv"
    wildcard_constraints:
        experiment=only(lambda experiment: not isinstance(experiment.concepts, TopicConcepts)),
    conda:
        "../envs/saesteer.yaml"
    params:
        **wants("concepts"),
        code=code("explanations.py"),
    script:
        "../scripts/explanations.py"
