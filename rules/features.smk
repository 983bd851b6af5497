# The table of all features, whole and a file a layer.


localrules:
    features_table,
    layer_features,


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
