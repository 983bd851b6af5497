# Ratings of the generated texts: by the shipped world's ground truth, by a language model behind an address, or by one on the GPU.


rule judge_oracle:
    """Concept and fluency, each 0, 1 or 2, and their harmonic mean, by the shipped world's ground truth."""
    input:
        model_files=fetched("model"),
        oracle=f"{DATA}/{{experiment}}/pins/oracle.json",
        topics=f"{DATA}/{{experiment}}/pins/topics.json",
        concepts=f"{DATA}/{{experiment}}/concepts/{{layers}}.json",
        sweep=f"{DATA}/{{experiment}}/sweep/{{layers}}.json",
        perplexity=f"{DATA}/{{experiment}}/perplexity/{{layers}}.json",
        topics_file=file_of("topics"),
        prefixes_file=prefixes_file,
    output:
        manifest=f"{DATA}/{{experiment}}/judge/{{layers}}.json",
    log:
        "logs/{experiment}/judge/{layers}.log",
    benchmark:
        "logs/{experiment}/judge/{layers}.tsv"
    wildcard_constraints:
        experiment=only(lambda experiment: experiment.judge.kind == "oracle"),
    conda:
        "../envs/saesteer.yaml"
    params:
        code=code("judge_oracle.py"),
        wants=wants("judge"),
    script:
        "../scripts/judge_oracle.py"


rule judge_endpoint:
    """Concept, instruction (where there is one) and fluency by a language model behind an OpenAI-compatible address."""
    input:
        concepts=f"{DATA}/{{experiment}}/concepts/{{layers}}.json",
        sweep=f"{DATA}/{{experiment}}/sweep/{{layers}}.json",
        prefixes_file=prefixes_file,
    output:
        manifest=f"{DATA}/{{experiment}}/judge/{{layers}}.json",
    log:
        "logs/{experiment}/judge/{layers}.log",
    benchmark:
        "logs/{experiment}/judge/{layers}.tsv"
    wildcard_constraints:
        experiment=only(lambda experiment: experiment.judge.kind == "endpoint"),
    conda:
        "../envs/saesteer.yaml"
    params:
        code=code("judge_endpoint.py"),
        wants=wants("judge"),
    script:
        "../scripts/judge_endpoint.py"


rule judge_model:
    """The same by a transformers model on the GPU."""
    input:
        judge_model_files=fetched("judge_model"),
        judge_model=f"{DATA}/{{experiment}}/pins/judge_model.json",
        concepts=f"{DATA}/{{experiment}}/concepts/{{layers}}.json",
        sweep=f"{DATA}/{{experiment}}/sweep/{{layers}}.json",
        prefixes_file=prefixes_file,
    output:
        manifest=f"{DATA}/{{experiment}}/judge/{{layers}}.json",
    log:
        "logs/{experiment}/judge/{layers}.log",
    benchmark:
        "logs/{experiment}/judge/{layers}.tsv"
    wildcard_constraints:
        experiment=only(lambda experiment: experiment.judge.kind == "model"),
    conda:
        "../envs/saesteer.yaml"
    resources:
        **gpu_job("judge"),
    params:
        code=code("judge_model.py"),
        wants=wants("judge"),
    script:
        "../scripts/judge_model.py"
