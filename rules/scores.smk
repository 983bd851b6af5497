# P1's two scores of a feature, and the lens tokens that both rest on.


rule logit_lens:
    """The tokens that each feature's decoder direction promotes."""
    input:
        model_files=fetched("model"),
        sae_files=fetched_saes,
        model=f"{DATA}/{{experiment}}/pins/model.json",
        saes=f"{DATA}/{{experiment}}/saes/{{layers}}.json",
    output:
        manifest=f"{DATA}/{{experiment}}/logit_lens/{{layers}}.json",
    log:
        "logs/{experiment}/logit_lens/{layers}.log",
    benchmark:
        "logs/{experiment}/logit_lens/{layers}.tsv"
    conda:
        "../envs/saesteer.yaml"
    resources:
        **gpu_job("logit_lens"),
    params:
        **wants("logit_lens"),
        code=code("logit_lens.py"),
    script:
        "../scripts/logit_lens.py"


rule input_score:
    """Share of a feature's records whose maximal token is a lens token."""
    input:
        model_files=fetched("model"),
        model=f"{DATA}/{{experiment}}/pins/model.json",
        records=f"{DATA}/{{experiment}}/records/{{layers}}.json",
        logit_lens=f"{DATA}/{{experiment}}/logit_lens/{{layers}}.json",
    output:
        manifest=f"{DATA}/{{experiment}}/input_score/{{layers}}.json",
    log:
        "logs/{experiment}/input_score/{layers}.log",
    benchmark:
        "logs/{experiment}/input_score/{layers}.tsv"
    conda:
        "../envs/saesteer.yaml"
    params:
        **wants("input_score"),
        code=code("input_score.py"),
    script:
        "../scripts/input_score.py"


rule output_score:
    """Rank and probability of the best lens token when the feature is amplified."""
    input:
        model_files=fetched("model"),
        sae_files=fetched_saes,
        model=f"{DATA}/{{experiment}}/pins/model.json",
        saes=f"{DATA}/{{experiment}}/saes/{{layers}}.json",
        logit_lens=f"{DATA}/{{experiment}}/logit_lens/{{layers}}.json",
    output:
        manifest=f"{DATA}/{{experiment}}/output_score/{{layers}}.json",
    log:
        "logs/{experiment}/output_score/{layers}.log",
    benchmark:
        "logs/{experiment}/output_score/{layers}.tsv"
    conda:
        "../envs/saesteer.yaml"
    resources:
        **gpu_job("output_score"),
    params:
        **wants("output_score"),
        code=code("output_score.py"),
    script:
        "../scripts/output_score.py"
