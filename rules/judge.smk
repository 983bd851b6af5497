# Ratings of the generated texts: concept, instruction (where there is one) and fluency, each 0, 1 or 2, and their harmonic mean. By the
# judge of a shipped world, by sentence embeddings, by a language model behind an address, or by one on the GPU.


localrules:
    judge,
    judge_endpoint,


rule judge:
    """By the judge of a shipped world, which knows its topics."""
    input:
        oracle=f"{PINS}/oracle.json",
        topics_pin=f"{PINS}/topics.json",
        topics=file_of("topics"),
        model_files=fetched("model"),
        concepts=concepts_of_texts,
        generations=f"{DATA}/generations/{{layers}}.json",
        perplexity=f"{DATA}/perplexity/{{layers}}.json",
        prompts=prompts,
    output:
        manifest=f"{DATA}/judge/{{layers}}.json",
    log:
        "logs/{experiment}/judge/{layers}.log",
    benchmark:
        "logs/{experiment}/judge/{layers}.tsv"
    wildcard_constraints:
        experiment=only(lambda experiment: judge_kind(experiment) == "oracle"),
    conda:
        "../envs/saesteer.yaml"
    params:
        **rows_of("judge"),
    script:
        "../scripts/step.py"


rule judge_embedding:
    """By a sentence-embedding model, beside unsteered texts."""
    input:
        judge_model=f"{PINS}/judge_model.json",
        judge_model_files=fetched("judge_model"),
        perplexity_model=f"{PINS}/perplexity_model.json",
        perplexity_model_files=fetched("perplexity_model"),
        concepts=concepts_of_texts,
        generations=f"{DATA}/generations/{{layers}}.json",
        perplexity=f"{DATA}/perplexity/{{layers}}.json",
        unsteered=manifests_of_unsteered,
        examples=examples_of_concepts,
        model_files=fetched("model"),
        prompts=prompts,
    output:
        manifest=f"{DATA}/judge/{{layers}}.json",
    log:
        "logs/{experiment}/judge_embedding/{layers}.log",
    benchmark:
        "logs/{experiment}/judge_embedding/{layers}.tsv"
    wildcard_constraints:
        experiment=only(lambda experiment: judge_kind(experiment) == "embedding"),
    conda:
        "../envs/saesteer.yaml"
    threads: share_of_cores
    resources:
        **gpu_job("judge"),
    params:
        **rows_of("judge"),
    script:
        "../scripts/step.py"


rule judge_endpoint:
    """By a language model behind an OpenAI-compatible address."""
    input:
        concepts=concepts_of_texts,
        generations=f"{DATA}/generations/{{layers}}.json",
        prompts=prompts,
    output:
        manifest=f"{DATA}/judge/{{layers}}.json",
    log:
        "logs/{experiment}/judge_endpoint/{layers}.log",
    benchmark:
        "logs/{experiment}/judge_endpoint/{layers}.tsv"
    wildcard_constraints:
        experiment=only(lambda experiment: judge_kind(experiment) == "endpoint"),
    conda:
        "../envs/saesteer.yaml"
    params:
        **rows_of("judge"),
    script:
        "../scripts/step.py"


rule judge_model:
    """By a transformers model on the GPU."""
    input:
        judge_model=f"{PINS}/judge_model.json",
        judge_model_files=fetched("judge_model"),
        concepts=concepts_of_texts,
        generations=f"{DATA}/generations/{{layers}}.json",
        prompts=prompts,
    output:
        manifest=f"{DATA}/judge/{{layers}}.json",
    log:
        "logs/{experiment}/judge_model/{layers}.log",
    benchmark:
        "logs/{experiment}/judge_model/{layers}.tsv"
    wildcard_constraints:
        experiment=only(lambda experiment: judge_kind(experiment) == "model"),
    conda:
        "../envs/saesteer.yaml"
    threads: share_of_cores
    resources:
        **gpu_job("judge"),
    params:
        **rows_of("judge"),
    script:
        "../scripts/step.py"
