# Generated texts, of single features over factors and prefixes (P1's sweep) or of fitted methods, and what is measured on them.
# The jobs that run a model on them are the longest and go first, so that no core is idle while the last of them runs.


rule generations:
    """One text for each intervention, factor, prompt and sample."""
    input:
        unpack(step_inputs("generations")),
        unpack(files_of_keys),
    output:
        manifest=f"{DATA}/{{experiment}}/generations/{{layers}}.json",
    priority: 1
    resources:
        **gpu_job("generations"),
    params:
        **wants("generations"),
        code=code("generations.py"),
    script:
        "../scripts/generations.py"


rule gen_success:
    """How many of a text's tokens are lens tokens of the one feature that steers it."""
    input:
        unpack(step_inputs("gen_success")),
        unpack(files_of_keys),
    output:
        manifest=f"{DATA}/{{experiment}}/gen_success/{{layers}}.json",
    params:
        **wants("gen_success"),
        code=code("gen_success.py"),
    script:
        "../scripts/gen_success.py"


rule perplexity:
    """The loss of each text, given its prompt, under a second model."""
    input:
        unpack(step_inputs("perplexity")),
        unpack(files_of_keys),
    output:
        manifest=f"{DATA}/{{experiment}}/perplexity/{{layers}}.json",
    priority: 1
    resources:
        **gpu_job("perplexity"),
    params:
        **wants("perplexity"),
        code=code("perplexity.py"),
    script:
        "../scripts/perplexity.py"
