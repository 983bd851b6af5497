# How far the linear model of steering's effects goes (SAE-TS).


rule effects_at_multiples:
    """Held-out vectors' effects at multiples of the scale at which the approximator of effects is fitted (SAE-TS)."""
    input:
        effects=f"{DATA}/{{experiment}}/effects/{{layers}}.json",
        saes=f"{DATA}/{{experiment}}/saes/{{layers}}.json",
        sae_files=fetched_saes,
        model=f"{DATA}/{{experiment}}/pins/model.json",
        model_files=fetched("model"),
    output:
        table=f"{DATA}/{{experiment}}/effects_at_multiples/{{layers}}.parquet",
    resources:
        gpu=1,
    params:
        code=code("effects_at_multiples.py"),
        settings=setting("methods"),
    script:
        "../scripts/effects_at_multiples.py"


rule effects_at_later_layers:
    """Vectors' effects as the SAEs of the experiment's later layers read them (SAE-TS)."""
    input:
        effects=f"{DATA}/{{experiment}}/effects/{{layers}}.json",
        saes=manifests("saes"),
        sae_files=all_fetched_saes,
        model=f"{DATA}/{{experiment}}/pins/model.json",
        model_files=fetched("model"),
    output:
        table=f"{DATA}/{{experiment}}/effects_at_later_layers/{{layers}}.parquet",
    resources:
        gpu=1,
    params:
        code=code("effects_at_later_layers.py"),
        settings=setting("methods"),
    script:
        "../scripts/effects_at_later_layers.py"


rule effect_layers:
    """How well effects are predicted at the steered layer and at later ones."""
    input:
        effects=manifests("effects"),
        at_later_layers=layer_files("effects_at_later_layers"),
    output:
        table=f"{TABLES}/effect_layers.parquet",
    params:
        code=code("effect_layers.py"),
        settings=setting("methods", "selection"),
    script:
        "../scripts/effect_layers.py"


rule effect_questions:
    """How well effects are predicted from more vectors, by a smooth model, and beyond the scale of the fitted ones."""
    input:
        effects=manifests("effects"),
        multiples=layer_files("effects_at_multiples"),
        features=layers_features,
    output:
        **{name: f"{TABLES}/{name}.parquet" for name in EFFECT_QUESTIONS},
    params:
        code=code("effect_questions.py"),
        settings=setting("methods", "selection"),
    script:
        "../scripts/effect_questions.py"
