# P1's two scores of a feature, the top logit-lens tokens that both rest on, and the table of all features.


rule logit_lens:
    """The tokens that each feature's decoder direction promotes."""
    input:
        model=f"{PINS}/model.json",
        model_files=fetched("model"),
        saes=f"{DATA}/saes/{{layers}}.json",
        sae_files=fetched_saes,
    output:
        manifest=f"{DATA}/logit_lens/{{layers}}.json",
    resources:
        **gpu_job("logit_lens"),
    params:
        **rows_of("logit_lens"),
    script:
        "../scripts/step.py"


rule input_score:
    """Share of a feature's records whose maximal token is a lens token."""
    input:
        model=f"{PINS}/model.json",
        model_files=fetched("model"),
        records=f"{DATA}/records/{{layers}}.json",
        logit_lens=f"{DATA}/logit_lens/{{layers}}.json",
    output:
        manifest=f"{DATA}/input_score/{{layers}}.json",
    params:
        **rows_of("input_score"),
    script:
        "../scripts/step.py"


rule output_score:
    """Rank and probability of the best lens token when the feature is amplified."""
    input:
        model=f"{PINS}/model.json",
        model_files=fetched("model"),
        saes=f"{DATA}/saes/{{layers}}.json",
        sae_files=fetched_saes,
        logit_lens=f"{DATA}/logit_lens/{{layers}}.json",
    output:
        manifest=f"{DATA}/output_score/{{layers}}.json",
    resources:
        **gpu_job("output_score"),
    params:
        **rows_of("output_score"),
    script:
        "../scripts/step.py"


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
        features=f"{TABLES}/features.parquet",
    params:
        code=code("summary.py", "summaries.features_table"),
        pages=setting("records", "saes"),
        neuronpedia=WORKFLOW.addresses.neuronpedia,
    script:
        "../scripts/summary.py"


rule layer_features:
    """The same of one layer, of an experiment that scores every feature: a file that can be shared by itself."""
    input:
        records=manifest_of_layer("records"),
        concepts=manifest_of_layer("concepts"),
        logit_lens=manifest_of_layer("logit_lens"),
        input_score=manifest_of_layer("input_score"),
        output_score=manifest_of_layer("output_score"),
        saes=manifest_of_layer("saes"),
    output:
        features=f"{DATA}/features/layer_{{layer}}.parquet",
    wildcard_constraints:
        layer=r"\d+",
    params:
        code=code("summary.py", "summaries.layer_features"),
        pages=setting("records", "saes"),
        neuronpedia=WORKFLOW.addresses.neuronpedia,
    script:
        "../scripts/summary.py"
