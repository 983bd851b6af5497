import { useContext, useMemo } from "preact/hooks";
import { entry } from "./data.js";
import { served } from "./steer.jsx";
import { Curves, Index, Num, Section, Table, Texts, Waiting, objects, show, usePromise, visible } from "./parts.jsx";

export function FeaturePage({ table, layer, feature, level = 1 }) {
  const index = useContext(Index);
  const page = usePromise(async () => {
    const row = await table.rowOf(layer, feature);
    if (row < 0) throw new Error(`Feature ${layer}/${feature} is not in this report: ${index.name} has the layers ${index.layers.map(([one]) => one).join(", ")}.`);
    return entry("f", index.features.starts, row);
  }, [layer, feature]);
  const Title = level === 1 ? "h1" : "h2";
  return <article>
    <Title tabIndex={-1}>Feature {layer}/{feature}</Title>
    {page.value ? <Feature page={page.value} layer={layer} feature={feature} level={level} /> : <Waiting error={page.error} />}
  </article>;
}

function Feature({ page, layer, feature, level }) {
  const index = useContext(Index), row = Object.fromEntries(index.features.columns.map((name, i) => [name, page.row[i]]));
  return <>
    {row.concept && <p class="lead">{row.concept}{row.concept_share !== null && <span class="quiet"> ({show(100 * row.concept_share)} % of the maxima of its max-activating examples)</span>}</p>}
    {row.explanations.filter((one) => one !== row.concept).map((one) => <p>{one}</p>)}
    <p class="links">{/^https?:\/\//.test(row.page ?? "") && <a href={row.page} rel="noopener noreferrer" target="_blank">On Neuronpedia</a>}
      {served && level === 1 && <a href={`#/steer?f=${layer}/${feature}*${page.recommended?.[0] ?? 1}`}>Steer with it</a>}
      {level === 1 && <a href={`#/compare/features/${layer}/${feature}`}>Compare with another feature</a>}</p>
    <Section title="Scores" tables={["features"]}>
      <div class="places"><Place title="output score" column="output_score" value={row.output_score} place={page.place[0]} layer={layer} />
        <Place title="input score" column="input_score" value={row.input_score} place={page.place[1]} layer={layer} reason={row.input_score_reason} /></div>
      <dl class="facts">{FACTS.map(([name, title]) => <div><dt>{title}</dt><dd><Num table="features" column={name} value={row[name]} /></dd></div>)}</dl>
    </Section>
    <Section title="What it writes: top logit-lens tokens" tables={["logit_lens"]}><ol class="tokens">{row.top_logit_lens_tokens.map((token) => <li>{visible(token)}</li>)}</ol></Section>
    {page.examples && <MaxActivatingExamples examples={page.examples} n={row.n_examples} />}
    {page.curve && <FactorCurves columns={index.features.curve} points={page.curve} recommended={page.recommended} />}
    {page.outcomes && <Chosen columns={index.features.outcomes} rows={page.outcomes} />}
    {page.texts && <Section title="Steered texts" tables={["generations", "judge", "perplexity", "gen_success"]}>
      <Texts columns={index.features.texts} rows={page.texts} best={page.recommended && [page.recommended[0]]} /></Section>}
    {page.neighbours && <Neighbours layer={layer} feature={feature} rows={page.neighbours} />}
  </>;
}

const FACTS = [["density", "density"], ["max_activation", "largest activation"], ["n_examples", "max-activating examples"], ["min_rank", "rank of the best top logit-lens token"], ["max_prob", "its probability"],
  ["delta_token_confidence", "delta token confidence"], ["a_max", "a_max"], ["decoder_norm", "decoder norm"]];

function Place({ title, column, value, place, layer, reason }) {
  const above = place && place[1] > 1 ? (place[1] - place[0]) / (place[1] - 1) : null;
  return <div class="place"><h3>{title} <Num table="features" column={column} value={value} /></h3>
    {place ? <><div class="track"><div class="mark" style={{ left: `${100 * (above ?? 0.5)}%` }} /></div>
      <p class="quiet">{place[0].toLocaleString("en")} of {place[1].toLocaleString("en")} in layer {layer}, 1 the largest</p></> : <p class="quiet">{reason ?? "none"}</p>}</div>;
}

function MaxActivatingExamples({ examples, n }) {
  const most = Math.max(...examples.map(([value]) => value), 1e-9);
  return <Section title="What it fires on: max-activating examples" tables={["max_activating_examples", "activations"]}>
    {examples.length === 0 && <p>It is never active on these texts.</p>}
    {n > examples.length && <p class="quiet">The {examples.length} with the largest activations, of {n}.</p>}
    <ol class="examples">{examples.map(([value, at, tokens, active, [cutBefore, cutAfter]]) => <li>
      <span class="quiet"><Num table="max_activating_examples" column="examples" value={value} /></span>
      <p>{cutBefore && "… "}{tokens.map((token, i) => {
        const own = active ? active.find(([place]) => place === i)?.[1] ?? 0 : i === at ? value : 0;
        if (!own && i !== at) return visible(token);
        return <mark class={i === at ? "most" : undefined} style={{ "--heat": `${Math.round(15 + 85 * Math.min(1, own / most))}%` }} title={show(own)}>{visible(token)}</mark>;
      })}{cutAfter && " …"}</p></li>)}</ol>
    <p class="quiet">{examples[0]?.[3] ? "Colour: the feature's activation at each token; underlined: the largest." : "Only the largest activation of each text is known."}</p>
  </Section>;
}

function FactorCurves({ columns, points: given, recommended: [factor, chosenBy] }) {
  const rows = useMemo(() => objects({ columns, rows: given }), [given]), factors = useMemo(() => rows.map((row) => row.factor), [rows]);
  const points = (name, f = (x) => x) => rows.map((row) => (row[name] === null ? null : f(row[name])));
  const drawn = useMemo(() => [
    ["GenSuccess@20 by factor", [["GenSuccess@20", points("gen_success_20")]], false],
    ["Perplexity by factor", [["perplexity", points("log_perplexity", Math.exp)]], true],
    ["Ratings by factor", [["concept", points("concept_rating")], ["fluency", points("fluency_rating")], ["judge score", points("judge_score")]].filter(([, values]) => values.some((one) => one !== null)), false],
  ].filter(([, series]) => series.length > 0 && series.some(([, values]) => values.some((one) => one !== null))), [rows]);
  const column = (title, name) => [title, "steering", name];
  return <Section title="How hard: by factor" tables={["steering"]}>
    <p>{factor === null ? "No factor is recommended: it did not steer at any." : `Recommended: factor ${factor}, chosen by ${chosenBy}.`}</p>
    <div class="curves">{drawn.map(([title, series, log]) => <Curves key={title} title={title} factors={factors} series={series} log={log} />)}</div>
    <details><summary>The same as a table</summary><Table caption="Means by factor"
      headers={["factor", column("GenSuccess@20", "gen_success_20"), column("perplexity", "log_perplexity"), column("concept", "concept_rating"), column("fluency", "fluency_rating"), column("judge score", "judge_score"), column("texts", "n")]}
      rows={rows.map((row) => [row.factor, row.gen_success_20, row.log_perplexity === null ? null : Math.exp(row.log_perplexity), row.concept_rating, row.fluency_rating, row.judge_score, row.n])} /></details>
  </Section>;
}

function Chosen({ columns, rows }) {
  const column = (title, name) => [title, "outcomes", name];
  return <Section title="Held-out scores: each half of the prompts at the factor chosen on the other" tables={["outcomes", "best_factors"]}>
    <Table caption="Held-out outcomes" headers={["rule", column("factors", "factors"), column("GenSuccess@20", "gen_success_20"), column("concept", "concept_rating"), column("fluency", "fluency_rating"), column("judge score", "judge_score")]}
      rows={objects({ columns, rows }).map((row) => [row.rule, row.factors.map((one) => one ?? "none").join(", "), row.gen_success_20, row.concept_rating, row.fluency_rating, row.judge_score])} /></Section>;
}

function Neighbours({ layer, feature, rows }) {
  return <Section title="Neighbours by cosine of the decoder rows" tables={["saes"]}>
    <Table caption="Neighbours" headers={["feature", "cosine", "label", "top logit-lens tokens", "beside it"]}
      rows={rows.map(([other, cosine, label, lens]) => [label === null ? `${layer}/${other}` : <a href={`#/feature/${layer}/${other}`}>{layer}/{other}</a>, cosine, label === null ? <span class="quiet nowrap">not in this report</span> : label || "–", lens?.map(visible).join("") ?? "–",
        label === null ? "–" : <a href={`#/compare/features/${layer}/${feature}/${layer}/${other}`}>compare</a>])} /></Section>;
}
