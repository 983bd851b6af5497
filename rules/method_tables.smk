# The comparison of steering methods: what is measured on its texts, tables and the report.


rule steered_perplexity:
    """The loss of each of them under the second model, given its prompt."""
    input:
        perplexity_model_files=fetched("perplexity_model"),
        perplexity_model=f"{DATA}/{{experiment}}/pins/perplexity_model.json",
        steered=f"{DATA}/{{experiment}}/steered/{{layers}}.json",
        asked_concepts=f"{TABLES}/asked_concepts.parquet",
        prefixes_file=method_prompts,
    output:
        manifest=f"{DATA}/{{experiment}}/steered_perplexity/{{layers}}.json",
    log:
        "logs/{experiment}/steered_perplexity/{layers}.log",
    benchmark:
        "logs/{experiment}/steered_perplexity/{layers}.tsv"
    conda:
        "../envs/saesteer.yaml"
    resources:
        **gpu_job("steered_perplexity"),
    params:
        code=code("steered_perplexity.py"),
        wants=wants("steered_perplexity"),
    script:
        "../scripts/steered_perplexity.py"


rule steered_judge:
    """Concept, instruction (where there is one) and fluency of each steered text, by the judge that the experiment names."""
    input:
        unpack(steered_judge_inputs),
        steered=f"{DATA}/{{experiment}}/steered/{{layers}}.json",
        asked_concepts=f"{TABLES}/asked_concepts.parquet",
        prefixes_file=method_prompts,
    output:
        manifest=f"{DATA}/{{experiment}}/steered_judge/{{layers}}.json",
    log:
        "logs/{experiment}/steered_judge/{layers}.log",
    benchmark:
        "logs/{experiment}/steered_judge/{layers}.tsv"
    wildcard_constraints:
        experiment=only(lambda experiment: experiment.judge.kind in ("oracle", "endpoint")),
    conda:
        "../envs/saesteer.yaml"
    params:
        code=code("steered_judge.py"),
        wants=wants("steered_judge"),
    script:
        "../scripts/steered_judge.py"


rule steered_judge_model:
    """The same by a transformers model on the GPU."""
    input:
        unpack(steered_judge_inputs),
        steered=f"{DATA}/{{experiment}}/steered/{{layers}}.json",
        asked_concepts=f"{TABLES}/asked_concepts.parquet",
        prefixes_file=method_prompts,
    output:
        manifest=f"{DATA}/{{experiment}}/steered_judge/{{layers}}.json",
    log:
        "logs/{experiment}/steered_judge/{layers}.log",
    benchmark:
        "logs/{experiment}/steered_judge/{layers}.tsv"
    wildcard_constraints:
        experiment=only(lambda experiment: experiment.judge.kind == "model"),
    conda:
        "../envs/saesteer.yaml"
    resources:
        **gpu_job("steered_judge"),
    params:
        code=code("steered_judge.py"),
        wants=wants("steered_judge"),
    script:
        "../scripts/steered_judge.py"


rule method_tables:
    """Held-out scores with intervals, differences, costs; and the report that sets them beside the papers' figures."""
    input:
        unpack(success_inputs),
        asked_concepts=f"{TABLES}/asked_concepts.parquet",
        prefixes_file=method_prompts,
        fits=manifests("fits"),
        steered=manifests("steered"),
        steered_perplexity=manifests("steered_perplexity"),
        steered_judge=manifests("steered_judge"),
    output:
        **{name: f"{TABLES}/{name}.parquet" for name in METHOD_SUMMARIES},
        report=f"{FIGURES}/{{experiment}}/methods.md",
    log:
        "logs/{experiment}/method_tables.log",
    benchmark:
        "logs/{experiment}/method_tables.tsv"
    conda:
        "../envs/saesteer.yaml"
    params:
        code=code("method_tables.py"),
        settings=setting("methods", "judge", "model"),
        methods=file_digest(METHODS_TABLE),
    script:
        "../scripts/method_tables.py"
