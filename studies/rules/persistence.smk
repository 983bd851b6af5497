# Whether steering lasts.


rule persistence:
    """The concept rating of texts at the chosen factors, stretch by stretch."""
    input:
        topics=topics_of_judge,
        model_files=fetched("model"),
        prompts=prompts,
        generations=manifests("generations"),
        compared_concepts=f"{TABLES}/compared_concepts.parquet",
        method_choices=f"{TABLES}/method_choices.parquet",
        methods=f"{TABLES}/methods.parquet",
    output:
        persistence=f"{TABLES}/persistence.parquet",
    params:
        code=study_code("summary.py", "summaries.persistence"),
        settings=setting("methods", "judge"),
    script:
        "../scripts/summary.py"
