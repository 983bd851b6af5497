# Steered generations over factors and prefixes, and what is measured on their texts.


rule sweep:
    """One text for each feature, factor, prefix and sample."""
    input:
        model_files=fetched("model"),
        sae_files=fetched_saes,
        model=f"{DATA}/{{experiment}}/pins/model.json",
        saes=f"{DATA}/{{experiment}}/saes/{{layers}}.json",
        prefixes_file=prefixes_file,
    output:
        manifest=f"{DATA}/{{experiment}}/sweep/{{layers}}.json",
    log:
        "logs/{experiment}/sweep/{layers}.log",
    benchmark:
        "logs/{experiment}/sweep/{layers}.tsv"
    conda:
        "../envs/saesteer.yaml"
    resources:
        **gpu_job("sweep"),
    params:
        code=code("sweep.py"),
        wants=wants("sweep"),
    script:
        "../scripts/sweep.py"


rule gen_success:
    """How many of a text's tokens are lens tokens of its feature."""
    input:
        model_files=fetched("model"),
        prefixes_file=prefixes_file,
        model=f"{DATA}/{{experiment}}/pins/model.json",
        sweep=f"{DATA}/{{experiment}}/sweep/{{layers}}.json",
        logit_lens=f"{DATA}/{{experiment}}/logit_lens/{{layers}}.json",
    output:
        manifest=f"{DATA}/{{experiment}}/gen_success/{{layers}}.json",
    log:
        "logs/{experiment}/gen_success/{layers}.log",
    benchmark:
        "logs/{experiment}/gen_success/{layers}.tsv"
    conda:
        "../envs/saesteer.yaml"
    params:
        code=code("gen_success.py"),
        wants=wants("gen_success"),
    script:
        "../scripts/gen_success.py"


rule perplexity:
    """The loss of each text under a second model."""
    input:
        perplexity_model_files=fetched("perplexity_model"),
        perplexity_model=f"{DATA}/{{experiment}}/pins/perplexity_model.json",
        sweep=f"{DATA}/{{experiment}}/sweep/{{layers}}.json",
        prefixes_file=prefixes_file,
    output:
        manifest=f"{DATA}/{{experiment}}/perplexity/{{layers}}.json",
    log:
        "logs/{experiment}/perplexity/{layers}.log",
    benchmark:
        "logs/{experiment}/perplexity/{layers}.tsv"
    conda:
        "../envs/saesteer.yaml"
    resources:
        **gpu_job("perplexity"),
    params:
        code=code("perplexity.py"),
        wants=wants("perplexity"),
    script:
        "../scripts/perplexity.py"
