# What the papers leave open, asked where every feature is steered and the truth is known.


rule open_questions:
    """The target `snakemake open_questions`: what config/config.yaml names under `open_questions`."""
    input:
        [plan.planned_outputs(name, WORKFLOW, EXPERIMENTS[name]) for name in WORKFLOW.open_questions],


rule quantities:
    """Cheap quantities of every feature beside its two scores, and its output score at other prompts and factors."""
    input:
        features=f"{TABLES}/features.parquet",
        activations=f"{DATA}/{{experiment}}/activations/{{layers}}.json",
        saes=f"{DATA}/{{experiment}}/saes/{{layers}}.json",
        sae_files=fetched_saes,
        model=f"{DATA}/{{experiment}}/pins/model.json",
        model_files=fetched("model"),
        texts_file=file_of("texts"),
        topics_file=file_of("topics"),
        prefixes_file=prompts_file,
    output:
        quantities=f"{DATA}/{{experiment}}/quantities/{{layers}}.parquet",
        settings=f"{DATA}/{{experiment}}/output_score_settings/{{layers}}.parquet",
    resources:
        gpu=1,
    params:
        code=code("quantities.py"),
        settings=setting("output_score", "sweep", "logit_lens"),
    script:
        "../scripts/quantities.py"


rule open_question_tables:
    """What steering every feature says about choosing one."""
    input:
        features=f"{TABLES}/features.parquet",
        steering=f"{TABLES}/steering.parquet",
        outcomes=f"{TABLES}/outcomes.parquet",
        quantities=layer_files("quantities"),
        settings=layer_files("output_score_settings"),
        predictor=lambda wildcards: EXPERIMENTS[wildcards.experiment].selection.predictor or [],
    output:
        **{name: f"{TABLES}/{name}.parquet" for name in QUESTION_SUMMARIES if name not in ("data_sizes", "recommendations", "judge_error")},
    params:
        code=code("open_questions.py"),
        settings=setting("selection", "best_factor", "output_score"),
    script:
        "../scripts/open_questions.py"


rule data_sizes:
    """How much data quantities need that come from records or from labelled texts."""
    input:
        features=f"{TABLES}/features.parquet",
        steering=f"{TABLES}/steering.parquet",
        records=manifests("records"),
        logit_lens=manifests("logit_lens"),
        activations=manifests("activations"),
        model_files=fetched("model"),
        texts_file=file_of("texts"),
        topics_file=file_of("topics"),
    output:
        table=f"{TABLES}/data_sizes.parquet",
    params:
        code=code("data_sizes.py"),
        settings=setting("selection", "input_score"),
    script:
        "../scripts/data_sizes.py"


rule recommendations:
    """What `saesteer recommend` would say of each concept, against the best that could be said."""
    input:
        features=f"{TABLES}/features.parquet",
        judge=manifests("judge"),
        prefixes_file=prompts_file,
    output:
        table=f"{TABLES}/recommendations.parquet",
    params:
        code=code("recommendations.py"),
        settings=setting("selection"),
    script:
        "../scripts/recommendations.py"


rule judge_error:
    """Mean scores corrected for how often the judge is measured to err."""
    input:
        features=f"{TABLES}/features.parquet",
        steering=f"{TABLES}/steering.parquet",
        quantities=layer_files("quantities"),
        judge=manifests("judge"),
        prefixes_file=prompts_file,
        counts=judge_counts,
    output:
        table=f"{TABLES}/judge_error.parquet",
    params:
        code=code("judge_error.py"),
        settings=setting("selection"),
    script:
        "../scripts/judge_error.py"
