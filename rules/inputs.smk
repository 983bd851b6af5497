# What comes from outside: digests of models and data files, SAEs in plain form.


localrules:
    pin,
    convert_saes,


rule pin:
    """Digests of a model folder or a data file; what is computed from it depends on these, not on its path."""
    input:
        files_to_pin,
    output:
        pin=f"{DATA}/pins/{{name}}.json",
    log:
        "logs/{experiment}/pin/{name}.log",
    benchmark:
        "logs/{experiment}/pin/{name}.tsv"
    conda:
        "../envs/saesteer.yaml"
    params:
        code=code("pin.py"),
        pinned=pinned,
    script:
        "../scripts/pin.py"


rule convert_saes:
    """SAEs from sae-lens's form to plain safetensors; refuses one whose width, layer or hook point does not fit the model."""
    input:
        sae_files,
    output:
        manifest=f"{DATA}/saes/{{layers}}.json",
    log:
        "logs/{experiment}/convert_saes/{layers}.log",
    benchmark:
        "logs/{experiment}/convert_saes/{layers}.tsv"
    conda:
        "../envs/saesteer.yaml"
    params:
        code=code("convert_saes.py"),
        settings=setting("saes"),
    script:
        "../scripts/convert_saes.py"
