# The comparison of steering methods: training texts, effects, fits; tables and the report.


rule methods:
    """The target `snakemake methods`: what config/config.yaml names under `methods`."""
    input:
        [plan.planned_outputs(name, WORKFLOW, EXPERIMENTS[name]) for name in WORKFLOW.methods],


rule concept_texts:
    """The concepts, and the labelled texts that methods learn from."""
    input:
        sources=concept_sources,
    output:
        concepts=f"{TABLES}/asked_concepts.parquet",
        texts=f"{TABLES}/concept_texts.parquet",
    params:
        code=code("concept_texts.py"),
        settings=setting("methods", "saes", "layers", "records"),
    script:
        "../scripts/concept_texts.py"


rule steering_prompts:
    """Each concept's prompts of rising insistence, written by a language model behind an OpenAI-compatible address (P4)."""
    input:
        asked_concepts=f"{TABLES}/asked_concepts.parquet",
    output:
        table=f"{DATA}/{{experiment}}/steering_prompts/prompts.parquet",
    params:
        code=code("steering_prompts.py"),
        writer=prompt_writer,
    script:
        "../scripts/steering_prompts.py"


rule effects:
    """What adding each of many vectors does to the SAE's codes of the texts written (P2)."""
    input:
        unpack(step_inputs("effects")),
    output:
        manifest=f"{DATA}/{{experiment}}/effects/{{layers}}.json",
    resources:
        **gpu_job("effects"),
    params:
        **wants("effects"),
        code=code("effects.py"),
    script:
        "../scripts/effects.py"


rule fits:
    """Each method's intervention for each concept."""
    input:
        unpack(step_inputs("fits")),
        unpack(steering_prompts),
        asked_concepts=f"{TABLES}/asked_concepts.parquet",
        concept_texts=f"{TABLES}/concept_texts.parquet",
        features=layers_features,
        vectors_file=file_of("vectors"),
    output:
        manifest=f"{DATA}/{{experiment}}/fits/{{layers}}.json",
    resources:
        **gpu_job("fits"),
    params:
        **wants("fits"),
        code=code("fits.py", *(row.module for row in METHODS)),
    script:
        "../scripts/fits.py"


rule method_tables:
    """Held-out scores with intervals, differences, costs; and the report that sets them beside the papers' figures."""
    input:
        asked_concepts=f"{TABLES}/asked_concepts.parquet",
        prefixes_file=prompts_file,
        fits=manifests("fits"),
        features=layers_features,
        generations=manifests("generations"),
        gen_success=step_manifests("gen_success"),
        perplexity=manifests("perplexity"),
        judge=manifests("judge"),
    output:
        **{name: f"{TABLES}/{name}.parquet" for name in METHOD_SUMMARIES},
        report=f"{FIGURES}/{{experiment}}/methods.md",
    params:
        code=code("method_tables.py"),
        settings=setting("methods", "best_factor", "judge", "model"),
        methods=file_digest(METHODS_TABLE),
    script:
        "../scripts/method_tables.py"
