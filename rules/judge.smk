# Ratings of the generated texts: concept, instruction (where there is one) and fluency, each 0, 1 or 2, and their harmonic mean. By the
# judge of a shipped world, by sentence embeddings, by a language model behind an address, or by one on the GPU.


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
    wildcard_constraints:
        experiment=only(lambda experiment: judge_kind(experiment) == "oracle"),
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
    wildcard_constraints:
        experiment=only(lambda experiment: judge_kind(experiment) == "embedding"),
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
    wildcard_constraints:
        experiment=only(lambda experiment: judge_kind(experiment) == "endpoint"),
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
    wildcard_constraints:
        experiment=only(lambda experiment: judge_kind(experiment) == "model"),
    resources:
        **gpu_job("judge"),
    params:
        **rows_of("judge"),
    script:
        "../scripts/step.py"


rule explanations:
    """What the judge calls each feature, and how well that tells held-out texts."""
    input:
        further_inputs_of_explanations,
        examples=f"{DATA}/max_activating_examples/{{layers}}.json",
        logit_lens=f"{DATA}/logit_lens/{{layers}}.json",
        model_files=fetched("model"),
    output:
        manifest=f"{DATA}/explanations/{{layers}}.json",
    wildcard_constraints:
        experiment=only(lambda experiment: judge_kind(experiment) not in ("embedding", "model")),
    params:
        **rows_of("explanations"),
    script:
        "../scripts/step.py"


use rule explanations as explanations_model with:
    input:
        further_inputs_of_explanations,
        examples=f"{DATA}/max_activating_examples/{{layers}}.json",
        logit_lens=f"{DATA}/logit_lens/{{layers}}.json",
        model_files=fetched("model"),
        judge_model_files=fetched("judge_model"),
    wildcard_constraints:
        experiment=only(lambda experiment: judge_kind(experiment) in ("embedding", "model")),
    resources:
        **gpu_job("explanations"),
