# P1's two scores of a feature and the top logit-lens tokens that both rest on.


localrules:
    input_score,


rule logit_lens:
    """The tokens that each feature's decoder direction promotes."""
    input:
        model=f"{PINS}/model.json",
        model_files=fetched("model"),
        saes=f"{DATA}/saes/{{layers}}.json",
        sae_files=fetched_saes,
    output:
        manifest=f"{DATA}/logit_lens/{{layers}}.json",
    log:
        "logs/{experiment}/logit_lens/{layers}.log",
    benchmark:
        "logs/{experiment}/logit_lens/{layers}.tsv"
    conda:
        "../envs/saesteer.yaml"
    resources:
        **gpu_job("logit_lens"),
    params:
        **rows_of("logit_lens"),
    script:
        "../scripts/step.py"


rule input_score:
    """Share of a feature's max-activating examples whose maximal token is a top logit-lens token."""
    input:
        model=f"{PINS}/model.json",
        model_files=fetched("model"),
        examples=f"{DATA}/max_activating_examples/{{layers}}.json",
        logit_lens=f"{DATA}/logit_lens/{{layers}}.json",
    output:
        manifest=f"{DATA}/input_score/{{layers}}.json",
    log:
        "logs/{experiment}/input_score/{layers}.log",
    benchmark:
        "logs/{experiment}/input_score/{layers}.tsv"
    conda:
        "../envs/saesteer.yaml"
    params:
        **rows_of("input_score"),
    script:
        "../scripts/step.py"


rule output_score:
    """Rank and probability of the best logit-lens token when the feature is amplified."""
    input:
        model=f"{PINS}/model.json",
        model_files=fetched("model"),
        saes=f"{DATA}/saes/{{layers}}.json",
        sae_files=fetched_saes,
        logit_lens=f"{DATA}/logit_lens/{{layers}}.json",
    output:
        manifest=f"{DATA}/output_score/{{layers}}.json",
    log:
        "logs/{experiment}/output_score/{layers}.log",
    benchmark:
        "logs/{experiment}/output_score/{layers}.tsv"
    conda:
        "../envs/saesteer.yaml"
    resources:
        **gpu_job("output_score"),
    params:
        **rows_of("output_score"),
    script:
        "../scripts/step.py"
