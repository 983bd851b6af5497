# Ratings of the generated texts.


rule judge:
    """Concept and fluency, each 0, 1 or 2, and their harmonic mean."""
    input:
        oracle=f"{DATA}/{{experiment}}/pins/oracle.json",
        topics=f"{DATA}/{{experiment}}/pins/topics.json",
        concepts=f"{DATA}/{{experiment}}/concepts/{{layers}}.json",
        sweep=f"{DATA}/{{experiment}}/sweep/{{layers}}.json",
        perplexity=f"{DATA}/{{experiment}}/perplexity/{{layers}}.json",
        topics_file=file_of("topics"),
    output:
        manifest=f"{DATA}/{{experiment}}/judge/{{layers}}.json",
    log:
        "logs/{experiment}/judge/{layers}.log",
    benchmark:
        "logs/{experiment}/judge/{layers}.tsv"
    conda:
        "../envs/cpu.yaml"
    params:
        code=code("judge.py"),
        wants=wants("judge"),
    script:
        "../scripts/judge.py"
