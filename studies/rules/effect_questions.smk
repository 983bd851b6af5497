# How far the linear model of steering's effects goes (SAE-TS).


rule effects_at_multiples:
    """Held-out vectors' effects at multiples of the scale at which the approximator of effects is fitted (SAE-TS)."""
    input:
        effects=f"{DATA}/effects/{{layers}}.json",
        saes=f"{DATA}/saes/{{layers}}.json",
        sae_files=fetched_saes,
        model=f"{PINS}/model.json",
        model_files=fetched("model"),
    output:
        effects_at_multiples=f"{DATA}/effects_at_multiples/{{layers}}.parquet",
    resources:
        gpu=1,
    params:
        code=study_code("summary.py", "summaries.effects_at_multiples"),
        settings=setting("methods"),
    script:
        "../scripts/summary.py"


rule effects_at_later_layers:
    """Vectors' effects as the SAEs of the experiment's later layers read them (SAE-TS)."""
    input:
        effects=f"{DATA}/effects/{{layers}}.json",
        saes=manifests("saes"),
        sae_files=fetched_saes,
        model=f"{PINS}/model.json",
        model_files=fetched("model"),
    output:
        effects_at_later_layers=f"{DATA}/effects_at_later_layers/{{layers}}.parquet",
    resources:
        gpu=1,
    params:
        code=study_code("summary.py", "summaries.effects_at_later_layers"),
        settings=setting("methods"),
    script:
        "../scripts/summary.py"


rule effect_layers:
    """How well effects are predicted at the steered layer and at later ones."""
    input:
        effects=manifests("effects"),
        at_later_layers=tables_by_group("effects_at_later_layers"),
    output:
        effect_layers=f"{TABLES}/effect_layers.parquet",
    params:
        code=study_code("summary.py", "summaries.effect_layers"),
        settings=setting("methods", "selection"),
    script:
        "../scripts/summary.py"


rule effect_questions:
    """How well effects are predicted from more vectors, by a smooth model, and beyond the scale of the fitted ones."""
    input:
        effects=manifests("effects"),
        multiples=tables_by_group("effects_at_multiples"),
        features=features_by_layer,
    output:
        **{table.name: f"{TABLES}/{table.name}.parquet" for table in SUMMARIES["effect_questions"].tables},
    params:
        code=study_code("summary.py", "summaries.effect_questions"),
        settings=setting("methods", "selection"),
    script:
        "../scripts/summary.py"
