# The comparison of steering methods: training texts, effects, fits, steered texts.


rule methods:
    """The target `snakemake methods`: what config/config.yaml names under `methods`."""
    input:
        [f"{FIGURES}/{name}/{file}" for name in WORKFLOW.methods for file in plan.reports(EXPERIMENTS[name])],
        [f"{DATA}/{name}/{file}" for name in WORKFLOW.methods for file in plan.artifacts(EXPERIMENTS[name])],


rule concept_texts:
    """The concepts, and the labelled texts that methods learn from."""
    input:
        sources=concept_sources,
    output:
        asked=f"{TABLES}/asked_concepts.parquet",
        texts=f"{TABLES}/concept_texts.parquet",
    log:
        "logs/{experiment}/concept_texts.log",
    benchmark:
        "logs/{experiment}/concept_texts.tsv"
    conda:
        "../envs/saesteer.yaml"
    params:
        code=code("concept_texts.py"),
        settings=setting("methods", "saes", "layers", "records"),
    script:
        "../scripts/concept_texts.py"


rule effects:
    """What adding each of many vectors does to the SAE's codes of the texts written (P2)."""
    input:
        model_files=fetched("model"),
        sae_files=fetched_saes,
        model=f"{DATA}/{{experiment}}/pins/model.json",
        saes=f"{DATA}/{{experiment}}/saes/{{layers}}.json",
    output:
        manifest=f"{DATA}/{{experiment}}/effects/{{layers}}.json",
    log:
        "logs/{experiment}/effects/{layers}.log",
    benchmark:
        "logs/{experiment}/effects/{layers}.tsv"
    conda:
        "../envs/saesteer.yaml"
    resources:
        **gpu_job("effects"),
    params:
        code=code("effects.py"),
        wants=wants("effects"),
    script:
        "../scripts/effects.py"


rule fits:
    """Each method's intervention for each concept."""
    input:
        unpack(step_inputs("fits")),
        model_files=fetched("model"),
        sae_files=fetched_saes,
        asked_concepts=f"{TABLES}/asked_concepts.parquet",
        concept_texts=f"{TABLES}/concept_texts.parquet",
        features=layers_features,
        vectors_file=file_of("vectors"),
    output:
        manifest=f"{DATA}/{{experiment}}/fits/{{layers}}.json",
    log:
        "logs/{experiment}/fits/{layers}.log",
    benchmark:
        "logs/{experiment}/fits/{layers}.tsv"
    conda:
        "../envs/saesteer.yaml"
    resources:
        **gpu_job("fits"),
    params:
        code=code("fits.py", *(row.module for row in METHODS)),
        wants=wants("fits"),
    script:
        "../scripts/fits.py"


rule steered:
    """One text for each method, factor, concept, prompt and sample."""
    input:
        model_files=fetched("model"),
        sae_files=fetched_saes,
        model=f"{DATA}/{{experiment}}/pins/model.json",
        saes=f"{DATA}/{{experiment}}/saes/{{layers}}.json",
        fits=f"{DATA}/{{experiment}}/fits/{{layers}}.json",
        asked_concepts=f"{TABLES}/asked_concepts.parquet",
        prefixes_file=method_prompts,
    output:
        manifest=f"{DATA}/{{experiment}}/steered/{{layers}}.json",
    log:
        "logs/{experiment}/steered/{layers}.log",
    benchmark:
        "logs/{experiment}/steered/{layers}.tsv"
    conda:
        "../envs/saesteer.yaml"
    resources:
        **gpu_job("steered"),
    params:
        code=code("steered.py"),
        wants=wants("steered"),
    script:
        "../scripts/steered.py"
