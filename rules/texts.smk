# Generated texts, of single features over factors and prefixes (P1's sweep) or of fitted methods, and what is measured on them.
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
    wildcard_constraints:
        experiment=only(lambda experiment: isinstance(experiment, Sweep)),
    priority: 1
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
    wildcard_constraints:
        experiment=only(lambda experiment: isinstance(experiment, Comparison)),
    priority: 1
    resources:
        **gpu_job("generations"),
    params:
        **rows_of("generations"),
    script:
        "../scripts/step.py"


rule gen_success:
    """How many of a text's tokens are top logit-lens tokens of the feature that steers it."""
    input:
        model=f"{PINS}/model.json",
        model_files=fetched("model"),
        generations=f"{DATA}/generations/{{layers}}.json",
        logit_lens=job_manifests("logit_lens"),
        prompts=prompts,
    output:
        manifest=f"{DATA}/gen_success/{{layers}}.json",
    wildcard_constraints:
        experiment=only(lambda experiment: isinstance(experiment, Sweep)),
    params:
        **rows_of("gen_success"),
    script:
        "../scripts/step.py"


rule method_gen_success:
    """The same of the texts of methods that steer with one feature."""
    input:
        model=f"{PINS}/model.json",
        model_files=fetched("model"),
        generations=f"{DATA}/generations/{{layers}}.json",
        logit_lens=f"{DATA}/logit_lens/{{layers}}.json",
        fits=f"{DATA}/fits/{{layers}}.json",
        prompts=prompts,
    output:
        manifest=f"{DATA}/gen_success/{{layers}}.json",
    wildcard_constraints:
        experiment=only(lambda experiment: isinstance(experiment, Comparison)),
    params:
        **rows_of("gen_success"),
    script:
        "../scripts/step.py"


rule perplexity:
    """The loss of each text, given its prompt, under a second model."""
    input:
        perplexity_model=f"{PINS}/perplexity_model.json",
        perplexity_model_files=fetched("perplexity_model"),
        generations=f"{DATA}/generations/{{layers}}.json",
        prompts=prompts,
    output:
        manifest=f"{DATA}/perplexity/{{layers}}.json",
    priority: 1
    resources:
        **gpu_job("perplexity"),
    params:
        **rows_of("perplexity"),
    script:
        "../scripts/step.py"
