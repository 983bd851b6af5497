# Generated texts, of single features over factors and prefixes (P1's sweep) or of fitted methods.
# The jobs that run a model on them are the longest and go first, so that no core is idle while the last of them runs.


rule generations:
    """One text for each feature, factor, prefix and sample."""
    input:
        model=f"{PINS}/model.json",
        model_files=fetched("model"),
        saes=job_manifests("saes"),
        sae_files=fetched_saes,
        pilot=manifests_of_pilot,
        prompts=prompts,
    output:
        manifest=f"{DATA}/generations/{{layers}}.json",
    log:
        "logs/{experiment}/generations/{layers}.log",
    benchmark:
        "logs/{experiment}/generations/{layers}.tsv"
    wildcard_constraints:
        experiment=only(lambda experiment: isinstance(experiment, Sweep)),
    priority: 1
    conda:
        "../envs/saesteer.yaml"
    resources:
        **gpu_job("generations"),
    params:
        **rows_of("generations"),
    script:
        "../scripts/step.py"


rule method_generations:
    """One text for each method, concept, factor, prompt and sample."""
    input:
        model=f"{PINS}/model.json",
        model_files=fetched("model"),
        saes=f"{DATA}/saes/{{layers}}.json",
        sae_files=fetched_saes,
        fits=f"{DATA}/fits/{{layers}}.json",
        prompts=prompts,
        compared_concepts=f"{TABLES}/compared_concepts.parquet",
    output:
        manifest=f"{DATA}/generations/{{layers}}.json",
    log:
        "logs/{experiment}/method_generations/{layers}.log",
    benchmark:
        "logs/{experiment}/method_generations/{layers}.tsv"
    wildcard_constraints:
        experiment=only(lambda experiment: isinstance(experiment, Comparison)),
    priority: 1
    conda:
        "../envs/saesteer.yaml"
    resources:
        **gpu_job("generations"),
    params:
        **rows_of("generations"),
    script:
        "../scripts/step.py"
