# Generated texts, of single features over factors and prefixes (P1's sweep) or of fitted methods.
# The jobs that run a model on them are the longest and go first, so that no core is idle while the last of them runs.


rule generations:
    """One text for each feature, factor, prefix and sample; or for each method, concept, factor, prompt and sample."""
    input:
        model=f"{PINS}/model.json",
        model_files=fetched("model"),
        saes=job_manifests("saes"),
        sae_files=fetched_saes,
        steered_with=steered_with,
        prompts=prompts,
    output:
        manifest=f"{DATA}/generations/{{layers}}.json",
    log:
        "logs/{experiment}/generations/{layers}.log",
    benchmark:
        "logs/{experiment}/generations/{layers}.tsv"
    wildcard_constraints:
        experiment=only(lambda experiment: not isinstance(experiment, Scores)),
    priority: 1
    conda:
        "../envs/saesteer.yaml"
    threads: share_of_cores
    resources:
        **gpu_job("generations"),
    params:
        **rows_of("generations"),
    script:
        "../scripts/step.py"
