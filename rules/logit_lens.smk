# The top logit-lens tokens of features, on which both of P1's scores rest.


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
    threads: share_of_cores
    resources:
        **gpu_job("logit_lens"),
    params:
        **rows_of("logit_lens"),
    script:
        "../scripts/step.py"
