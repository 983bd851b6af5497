# Feature records: the texts in which each feature is most active, and the topic that they share.


rule activations:
    """SAE codes of the labelled corpus, sparse."""
    input:
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
        "../envs/gpu.yaml"
    resources:
        **gpu_job("activations"),
    params:
        code=code("activations.py"),
        wants=wants("activations"),
    script:
        "../scripts/activations.py"


rule records:
    """The texts with each feature's largest activations."""
    input:
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
    conda:
        "../envs/cpu.yaml"
    params:
        code=code("records.py"),
        wants=wants("records"),
    script:
        "../scripts/records.py"


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
    conda:
        "../envs/cpu.yaml"
    params:
        code=code("concepts.py"),
        wants=wants("concepts"),
    script:
        "../scripts/concepts.py"
