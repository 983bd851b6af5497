# What methods steer with: effects of steering where a method needs them, and each method's intervention for each concept.


rule effects:
    """What adding each of many vectors does to the SAE's codes of the texts written (P2)."""
    input:
        model=f"{PINS}/model.json",
        model_files=fetched("model"),
        saes=f"{DATA}/saes/{{layers}}.json",
        sae_files=fetched_saes,
    output:
        manifest=f"{DATA}/effects/{{layers}}.json",
    log:
        "logs/{experiment}/effects/{layers}.log",
    benchmark:
        "logs/{experiment}/effects/{layers}.tsv"
    conda:
        "../envs/saesteer.yaml"
    threads: share_of_cores
    resources:
        **gpu_job("effects"),
    params:
        **rows_of("effects"),
    script:
        "../scripts/step.py"


rule fits:
    """Each method's intervention for each concept."""
    input:
        unpack(further_inputs_of_fits),
        model=f"{PINS}/model.json",
        model_files=fetched("model"),
        saes=f"{DATA}/saes/{{layers}}.json",
        sae_files=fetched_saes,
        compared_concepts=f"{TABLES}/compared_concepts.parquet",
        concept_texts=f"{TABLES}/concept_texts.parquet",
        features=features_by_layer,
        examples=f"{DATA}/max_activating_examples/{{layers}}.json",
        concepts=f"{DATA}/concepts/{{layers}}.json",
        logit_lens=f"{DATA}/logit_lens/{{layers}}.json",
        input_score=f"{DATA}/input_score/{{layers}}.json",
        output_score=f"{DATA}/output_score/{{layers}}.json",
        vectors_file=file_of("vectors"),
        ordinary_texts=texts_of_fits_pilot,
    output:
        manifest=f"{DATA}/fits/{{layers}}.json",
    log:
        "logs/{experiment}/fits/{layers}.log",
    benchmark:
        "logs/{experiment}/fits/{layers}.tsv"
    conda:
        "../envs/saesteer.yaml"
    threads: share_of_cores
    resources:
        **gpu_job("fits"),
    params:
        **rows_of("fits"),
    script:
        "../scripts/step.py"
