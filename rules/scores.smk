# P1's two scores of a feature, and the lens tokens that both rest on.


rule logit_lens:
    """The tokens that each feature's decoder direction promotes."""
    input:
        unpack(step_inputs("logit_lens")),
    output:
        manifest=f"{DATA}/{{experiment}}/logit_lens/{{layers}}.json",
    resources:
        **gpu_job("logit_lens"),
    params:
        **wants("logit_lens"),
        code=code("logit_lens.py"),
    script:
        "../scripts/logit_lens.py"


rule input_score:
    """Share of a feature's records whose maximal token is a lens token."""
    input:
        unpack(step_inputs("input_score")),
    output:
        manifest=f"{DATA}/{{experiment}}/input_score/{{layers}}.json",
    params:
        **wants("input_score"),
        code=code("input_score.py"),
    script:
        "../scripts/input_score.py"


rule output_score:
    """Rank and probability of the best lens token when the feature is amplified."""
    input:
        unpack(step_inputs("output_score")),
    output:
        manifest=f"{DATA}/{{experiment}}/output_score/{{layers}}.json",
    resources:
        **gpu_job("output_score"),
    params:
        **wants("output_score"),
        code=code("output_score.py"),
    script:
        "../scripts/output_score.py"
