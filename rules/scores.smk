# P1's two scores of a feature, and the table of all features.


localrules:
    input_score,
    features_table,
    layer_features,


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
    threads: share_of_cores
    resources:
        **gpu_job("output_score"),
    params:
        **rows_of("output_score"),
    script:
        "../scripts/step.py"


rule features_table:
    """One row a feature: max-activating examples, concept, top logit-lens tokens, scores."""
    input:
        examples=manifests("max_activating_examples"),
        concepts=manifests("concepts"),
        logit_lens=manifests("logit_lens"),
        input_score=manifests("input_score"),
        output_score=manifests("output_score"),
        explanations=manifests("explanations"),
        saes=manifests("saes"),
    output:
        features=f"{TABLES}/features.parquet",
    log:
        "logs/{experiment}/features_table.log",
    benchmark:
        "logs/{experiment}/features_table.tsv"
    conda:
        "../envs/saesteer.yaml"
    params:
        **summary("features_table"),
        pages=setting("max_activating_examples", "saes"),
        neuronpedia=WORKFLOW.addresses.neuronpedia,
    script:
        "../scripts/summary.py"


rule layer_features:
    """The same of one layer, of an experiment that scores every feature: a file that can be shared by itself."""
    input:
        examples=manifest_of_layer("max_activating_examples"),
        concepts=manifest_of_layer("concepts"),
        logit_lens=manifest_of_layer("logit_lens"),
        input_score=manifest_of_layer("input_score"),
        output_score=manifest_of_layer("output_score"),
        saes=manifest_of_layer("saes"),
    output:
        features=f"{DATA}/features/layer_{{layer}}.parquet",
    log:
        "logs/{experiment}/layer_features/{layer}.log",
    benchmark:
        "logs/{experiment}/layer_features/{layer}.tsv"
    wildcard_constraints:
        layer=r"\d+",
    conda:
        "../envs/saesteer.yaml"
    params:
        **summary("layer_features"),
        pages=setting("max_activating_examples", "saes"),
        neuronpedia=WORKFLOW.addresses.neuronpedia,
    script:
        "../scripts/summary.py"
