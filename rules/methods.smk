# The comparison of steering methods: its concepts and training texts, the tables and the report.

from saesteer.core.files import file_digest
from saesteer.judge.prompt_writing import prompts_fingerprint
from saesteer.methods.compare.paper_values import PROTOCOLS, VALUES
from saesteer.methods.compare.tables import METHOD_SUMMARIES
from saesteer.settings.registry import TABLE as METHODS_FILE


localrules:
    methods,
    concept_texts,
    steering_prompts,
    method_tables,
    method_report,


rule methods:
    """The target `snakemake methods`: what config/config.yaml names under `methods`."""
    input:
        [planned_outputs(RUNS[name]) for name in WORKFLOW.methods],


rule concept_texts:
    """The concepts, and the labelled texts that methods learn from."""
    input:
        sources=concept_sources,
    output:
        compared_concepts=f"{TABLES}/compared_concepts.parquet",
        concept_texts=f"{TABLES}/concept_texts.parquet",
    log:
        "logs/{experiment}/concept_texts.log",
    benchmark:
        "logs/{experiment}/concept_texts.tsv"
    conda:
        "../envs/saesteer.yaml"
    params:
        **summary("concept_texts"),
        settings=setting("methods", "saes", "layers", "max_activating_examples"),
    script:
        "../scripts/summary.py"


rule steering_prompts:
    """Each concept's prompts of rising insistence, written by a language model behind an OpenAI-compatible address (P4)."""
    input:
        compared_concepts=f"{TABLES}/compared_concepts.parquet",
    output:
        steering_prompts=f"{DATA}/steering_prompts/prompts.parquet",
    log:
        "logs/{experiment}/steering_prompts.log",
    benchmark:
        "logs/{experiment}/steering_prompts.tsv"
    wildcard_constraints:
        experiment=only(summaries()["steering_prompts"].exists),
    conda:
        "../envs/saesteer.yaml"
    params:
        **summary("steering_prompts"),
        writer=lambda wildcards: plan.in_words(prompts_fingerprint(EXPERIMENTS[wildcards.experiment].methods.prompt_writer)),
    script:
        "../scripts/summary.py"


rule method_tables:
    """Held-out scores with intervals, differences and costs."""
    input:
        compared_concepts=f"{TABLES}/compared_concepts.parquet",
        prompts=prompts,
        fits=manifests("fits"),
        features=features_by_layer,
        generations=manifests("generations"),
        gen_success=manifests("gen_success"),
        perplexity=manifests("perplexity"),
        judge=manifests("judge"),
    output:
        **{name: f"{TABLES}/{name}.parquet" for name in METHOD_SUMMARIES},
    log:
        "logs/{experiment}/method_tables.log",
    benchmark:
        "logs/{experiment}/method_tables.tsv"
    conda:
        "../envs/saesteer.yaml"
    params:
        **summary("method_tables"),
        settings=setting("methods", "best_factor", "judge", "model"),
        data=[file_digest(table) for table in (METHODS_FILE, VALUES, PROTOCOLS)],
    script:
        "../scripts/summary.py"


rule method_report:
    """The report that sets the methods' scores beside the papers' figures."""
    input:
        compared_concepts=f"{TABLES}/compared_concepts.parquet",
        tables=[f"{TABLES}/{name}.parquet" for name in ("methods", "method_differences", "method_published")],
        equal_cost=equal_cost_table,
    output:
        report=f"{FIGURES_DIR}/methods.md",
    log:
        "logs/{experiment}/method_report.log",
    benchmark:
        "logs/{experiment}/method_report.tsv"
    conda:
        "../envs/saesteer.yaml"
    params:
        code=code("method_report.py"),
        settings=setting("methods", "judge", "model"),
        data=[file_digest(table) for table in (METHODS_FILE, VALUES, PROTOCOLS)],
    script:
        "../scripts/method_report.py"
