# From rows to tables: a row a feature, best factors and held-out outcomes.


rule features_table:
    """One row a feature: records, concept, lens tokens, scores."""
    input:
        records=manifests("records"),
        concepts=manifests("concepts"),
        logit_lens=manifests("logit_lens"),
        input_score=manifests("input_score"),
        output_score=manifests("output_score"),
        saes=manifests("saes"),
    output:
        table=f"{TABLES}/features.parquet",
    params:
        code=code("features_table.py"),
        pages=setting("records", "saes"),
        neuronpedia=WORKFLOW.addresses.neuronpedia,
    script:
        "../scripts/features_table.py"


rule layer_features:
    """The same of one layer, of an experiment that scores every feature: a file that can be shared by itself."""
    input:
        records=layer_manifests("records"),
        concepts=layer_manifests("concepts"),
        logit_lens=layer_manifests("logit_lens"),
        input_score=layer_manifests("input_score"),
        output_score=layer_manifests("output_score"),
        saes=layer_manifests("saes"),
    output:
        table=f"{DATA}/{{experiment}}/features/layer_{{layer}}.parquet",
    wildcard_constraints:
        layer=r"\d+",
    params:
        code=code("features_table.py"),
        pages=setting("records", "saes"),
        neuronpedia=WORKFLOW.addresses.neuronpedia,
    script:
        "../scripts/features_table.py"


rule steering_table:
    """Means over the generations of a feature, factor and half of the prefixes."""
    input:
        gen_success=manifests("gen_success"),
        perplexity=manifests("perplexity"),
        judge=step_manifests("judge"),
        prefixes_file=prompts_file,
    output:
        table=f"{TABLES}/steering.parquet",
    params:
        code=code("steering_table.py"),
        settings=setting("sweep"),
    script:
        "../scripts/steering_table.py"


rule outcomes:
    """Best factors by both rules, and what they gave on held-out prefixes."""
    input:
        steering=f"{TABLES}/steering.parquet",
        features=f"{TABLES}/features.parquet",
    output:
        best_factors=f"{TABLES}/best_factors.parquet",
        outcomes=f"{TABLES}/outcomes.parquet",
    params:
        code=code("outcomes.py"),
        settings=setting("best_factor"),
    script:
        "../scripts/outcomes.py"
