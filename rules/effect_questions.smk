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
