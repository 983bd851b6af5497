# Ratings of the generated texts: by the shipped world's ground truth, by a language model behind an address, or by one on the GPU.


rule judge:
    """Concept, instruction (where there is one) and fluency, each 0, 1 or 2, and their harmonic mean: by the oracle, or behind an
    OpenAI-compatible address."""
    input:
        unpack(step_inputs("judge")),
        unpack(files_of_keys),
        unpack(oracle_files),
    output:
        manifest=f"{DATA}/{{experiment}}/judge/{{layers}}.json",
    wildcard_constraints:
        experiment=only(lambda experiment: experiment.judge.kind in ("oracle", "endpoint")),
    params:
        **wants("judge"),
        code=code("judge.py"),
    script:
        "../scripts/judge.py"


rule judge_model:
    """The same by a transformers model on the GPU."""
    input:
        unpack(step_inputs("judge")),
        unpack(files_of_keys),
    output:
        manifest=f"{DATA}/{{experiment}}/judge/{{layers}}.json",
    wildcard_constraints:
        experiment=only(lambda experiment: experiment.judge.kind == "model"),
    resources:
        **gpu_job("judge"),
    params:
        **wants("judge"),
        code=code("judge.py"),
    script:
        "../scripts/judge.py"
