# What is measured on generated texts: top logit-lens tokens in them, and how likely a second model finds them.


localrules:
    gen_success,


rule gen_success:
    """How many of a text's tokens are top logit-lens tokens of the one feature that steers it."""
    input:
        model=f"{PINS}/model.json",
        model_files=fetched("model"),
        generations=f"{DATA}/generations/{{layers}}.json",
        logit_lens=job_manifests("logit_lens"),
        fits=fits_of_comparison,
        prompts=prompts,
    output:
        manifest=f"{DATA}/gen_success/{{layers}}.json",
    log:
        "logs/{experiment}/gen_success/{layers}.log",
    benchmark:
        "logs/{experiment}/gen_success/{layers}.tsv"
    wildcard_constraints:
        experiment=only(lambda experiment: not isinstance(experiment, Scores)),
    conda:
        "../envs/saesteer.yaml"
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
    log:
        "logs/{experiment}/perplexity/{layers}.log",
    benchmark:
        "logs/{experiment}/perplexity/{layers}.tsv"
    priority: 1
    conda:
        "../envs/saesteer.yaml"
    threads: share_of_cores
    resources:
        **gpu_job("perplexity"),
    params:
        **rows_of("perplexity"),
    script:
        "../scripts/step.py"
