# Whether what holds for topics holds for other attributes of a text.


rule attributes:
    """Rules that pick a feature for an attribute of a text other than its topic."""
    input:
        features=f"{TABLES}/features.parquet",
        prompts=prompts,
        texts_file=file_of("texts"),
        topics_file=file_of("topics"),
        model_files=fetched("model"),
        saes=manifests("saes"),
    output:
        attributes=f"{TABLES}/attributes.parquet",
    resources:
        gpu=1,
    params:
        code=study_code("summary.py", "summaries.attributes"),
        settings=setting("sampling", "judge", "sweep", "selection"),
    script:
        "../scripts/summary.py"
