# Steered generations over factors and prefixes, and what is measured on their texts.


rule sweep:
    """One text for each feature, factor, prefix and sample."""
    input:
        model=f"{DATA}/{{experiment}}/pins/model.json",
        saes=f"{DATA}/{{experiment}}/saes/{{layers}}.json",
        prefixes_file=prefixes_file,
    output:
        manifest=f"{DATA}/{{experiment}}/sweep/{{layers}}.json",
    params:
        code=code("sweep.py"),
        wants=wants("sweep"),
    log:
        "logs/{experiment}/sweep/{layers}.log",
    benchmark:
        "logs/{experiment}/sweep/{layers}.tsv"
    resources:
        gpu=gpus("sweep"),
    conda:
        "../envs/gpu.yaml"
    script:
        "../scripts/sweep.py"


rule gen_success:
    """How many of a text's tokens are lens tokens of its feature."""
    input:
        model=f"{DATA}/{{experiment}}/pins/model.json",
        sweep=f"{DATA}/{{experiment}}/sweep/{{layers}}.json",
        logit_lens=f"{DATA}/{{experiment}}/logit_lens/{{layers}}.json",
    output:
        manifest=f"{DATA}/{{experiment}}/gen_success/{{layers}}.json",
    params:
        code=code("gen_success.py"),
        wants=wants("gen_success"),
    log:
        "logs/{experiment}/gen_success/{layers}.log",
    benchmark:
        "logs/{experiment}/gen_success/{layers}.tsv"
    conda:
        "../envs/cpu.yaml"
    script:
        "../scripts/gen_success.py"


rule perplexity:
    """The loss of each text under a second model."""
    input:
        perplexity_model=f"{DATA}/{{experiment}}/pins/perplexity_model.json",
        sweep=f"{DATA}/{{experiment}}/sweep/{{layers}}.json",
        prefixes_file=prefixes_file,
    output:
        manifest=f"{DATA}/{{experiment}}/perplexity/{{layers}}.json",
    params:
        code=code("perplexity.py"),
        wants=wants("perplexity"),
    log:
        "logs/{experiment}/perplexity/{layers}.log",
    benchmark:
        "logs/{experiment}/perplexity/{layers}.tsv"
    resources:
        gpu=gpus("perplexity"),
    conda:
        "../envs/gpu.yaml"
    script:
        "../scripts/perplexity.py"
