import { useContext, useMemo } from "preact/hooks";
import { Answer, scoreName, splitOf } from "./answer.jsx";
import { entry, served } from "./data.js";
import { Activations, Index, Num, Panels, Section, Table, Texts, Waiting, objects, show, usePromise, visible } from "./parts.jsx";

export function FeaturePage({ table, layer, feature, level = 1 }) {
  const index = useContext(Index);
  const page = usePromise(async () => {
    const numbers = await table.numbers("feature"), row = await table.rowOf(layer, feature), [low, high] = table.range(layer);
    if (row < 0) return { unknown: Array.from(numbers.subarray(low, high)) };
    const beside = (at) => (at >= low && at < high ? numbers[at] : null);
    return { shown: await entry("f", index.features.starts, row), previous: beside(row - 1), next: beside(row + 1) };
  }, [layer, feature]);
  const Title = level === 1 ? "h1" : "h2", value = page.value;
  return <article>
    <Title tabIndex={-1}>{Number.isInteger(layer) && Number.isInteger(feature) ? `Feature ${layer}/${feature}` : "No such feature"}</Title>
    {!value ? <Waiting error={page.error} /> : value.unknown ? <Unknown layer={layer} feature={feature} features={value.unknown} /> : <>
      <Feature page={value.shown} layer={layer} feature={feature} level={level} />
      {level === 1 && <nav class="links turn" aria-label={`Features of layer ${layer}`}>{value.previous !== null && <a href={`#/feature/${layer}/${value.previous}`} rel="prev">← {layer}/{value.previous}</a>}
        <a href={`#/features?layer=${layer}`}>All features of layer {layer}</a>{value.next !== null && <a href={`#/feature/${layer}/${value.next}`} rel="next">{layer}/{value.next} →</a>}</nav>}</>}
  </article>;
}

const N_NEAR = 6;

/** What there is instead of a feature that is not in the report. */
function Unknown({ layer, feature, features }) {
  const index = useContext(Index), layers = index.layers.map(([one]) => one);
  if (!Number.isInteger(layer) || !Number.isInteger(feature)) return <p class="error" role="alert">This address names no feature. A feature is written LAYER/FEATURE, for example {layers[0]}/0. See <a href="#/features">all features</a>.</p>;
  if (!features.length) return <p class="error" role="alert">{index.name} has no layer {layer}. Its layers: {layers.map((one, i) => <>{i > 0 && ", "}<a href={`#/features?layer=${one}`}>{one}</a></>)}.</p>;
  const near = [...features].sort((a, b) => Math.abs(a - feature) - Math.abs(b - feature)).slice(0, N_NEAR).sort((a, b) => a - b), last = features.at(-1);
  return <p class="error" role="alert">Feature {layer}/{feature} is not in this report. Layer {layer} has {features.length.toLocaleString("en")} {features.length === last - features[0] + 1 ? "features" : "of its features in it"}, from {layer}/{features[0]} to {layer}/{last}. The nearest: {" "}
    {near.map((one, i) => <>{i > 0 && ", "}<a href={`#/feature/${layer}/${one}`}>{layer}/{one}</a></>)}.</p>;
}

function Feature({ page, layer, feature, level }) {
  const index = useContext(Index), row = Object.fromEntries(index.features.columns.map((name, i) => [name, page.row[i]]));
  return <>
    <Answer row={row} page={page} layer={layer} feature={feature} />
    {row.concept && <p>Concept: {page.label}{row.concept_share !== null && <span class="quiet"> (the most active token is on it in {show(100 * row.concept_share)} % of the max-activating examples)</span>}</p>}
    {row.explanations.filter((one) => one !== row.concept).map((one) => <p>{one}</p>)}
    <p class="links">{/^https?:\/\//.test(row.page ?? "") && <a href={row.page} rel="noopener noreferrer" target="_blank">On Neuronpedia</a>}
      {served && level === 1 && <a href={`#/steer?f=${layer}/${feature}*${page.recommended?.[0] ?? 1}&e=${index.features.edit}`}>Steer with it</a>}
      {level === 1 && <a href={`#/compare/features/${layer}/${feature}`}>Compare with another feature</a>}</p>
    {page.examples && <MaxActivatingExamples examples={page.examples} n={row.n_examples} />}
    <LogitLens top={row.top_logit_lens_tokens} lens={page.lens} />
    {row.max_activation !== null && <Histogram bins={page.histogram} />}
    {page.curve && <FactorCurves columns={index.features.curve} points={page.curve} recommended={page.recommended} />}
    {page.texts && <Section title="Steered texts" tables={["generations", "judge", "perplexity", "gen_success"]}>
      <Texts columns={index.features.texts} rows={page.texts} best={page.recommended && [page.recommended[0]]} first={page.answer?.text?.[0]} /></Section>}
    {page.neighbours && <Neighbours layer={layer} feature={feature} rows={page.neighbours} />}
    <Section title="Scores" tables={["features"]}>
      <div class="places"><Place title="output score" column="output_score" value={row.output_score} place={page.place[0]} layer={layer} />
        <Place title="input score" column="input_score" value={row.input_score} place={page.place[1]} layer={layer} reason={row.input_score_reason} /></div>
      <dl class="facts">{FACTS.map(([name, title]) => <div><dt>{title}</dt><dd><Num table="features" column={name} value={row[name]} /></dd></div>)}</dl>
    </Section>
    {page.outcomes && <Chosen columns={index.features.outcomes} rows={page.outcomes} />}
  </>;
}

const MOST_RATING = 2;
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
      <p>{cutBefore && "… "}<Activations {...{ tokens, most, at }} values={tokens.map((_, i) => (active ? active.find(([place]) => place === i)?.[1] : i === at ? value : 0))} />{cutAfter && " …"}</p></li>)}</ol>
    <p class="quiet">{examples[0]?.[3] ? "Colour: the feature's activation at each token; underlined: the largest." : "Only the largest activation of each text is known."}</p>
  </Section>;
}

/** How often the feature is how active; on a logarithmic scale, since small activations are so much more frequent than large ones. */
function Histogram({ bins }) {
  if (!bins) return <Section title="How active: histogram of its activations"><p class="quiet">Not known: the source of its examples has no histogram.</p></Section>;
  const [middles, counts] = bins, most = Math.max(...counts), height = (count) => (count === 0 ? 0 : (100 * Math.log10(1 + count)) / Math.log10(1 + most));
  const total = counts.reduce((sum, count) => sum + count, 0);
  return <Section title="How active: histogram of its activations" tables={["max_activating_examples"]}>
    <figure class="histogram"><figcaption>Tokens by the feature's activation: {show(total)} tokens, up to <Num table="max_activating_examples" column="histogram_counts" value={most} /> a bin; heights on a logarithmic scale.</figcaption>
      <div class="columns" aria-hidden="true">{counts.map((count, i) => <span style={{ height: `${height(count)}%` }} title={`activation about ${show(middles[i])}: ${show(count)} tokens`} />)}</div>
      <div class="ends" aria-hidden="true"><span>{show(middles[0])}</span><span>activation</span><span>{show(middles.at(-1))}</span></div></figure>
    <details><summary>The same as a table</summary><Table caption="Tokens by activation" headers={[["activation, middle of the bin", "max_activating_examples", "histogram_activations"], ["tokens", "max_activating_examples", "histogram_counts"]]}
      rows={middles.map((middle, i) => [middle, counts[i]])} /></details>
  </Section>;
}

/** The tokens that the feature promotes and those that it suppresses most, with their logits. */
function LogitLens({ top, lens }) {
  const tokens = (all, logits, column) => <ol class="tokens">{all.map((token, i) => <li>{visible(token)}{logits && <span class="logit"> <Num table="logit_lens" column={column} value={logits[i]} /></span>}</li>)}</ol>;
  if (!lens) return <Section title="What it writes: top logit-lens tokens">{tokens(top)}</Section>;
  const [logits, suppressed, smallest] = lens;
  return <Section title="What it writes: top logit-lens tokens" tables={["logit_lens"]}>
    {tokens(top, logits, "logits")}
    <h3 class="below">Most suppressed</h3>{tokens(suppressed, smallest, "suppressed_logits")}
    <p class="quiet below">The number behind each token is its logit.</p></Section>;
}

function FactorCurves({ columns, points: given, recommended: [factor, chosenBy] }) {
  const rows = useMemo(() => objects({ columns, rows: given }), [given]), factors = useMemo(() => rows.map((row) => row.factor), [rows]);
  const points = (name, f = (x) => x) => rows.map((row) => (row[name] === null ? null : f(row[name])));
  const drawn = useMemo(() => [
    ["GenSuccess@20 by factor", [["GenSuccess@20", points("gen_success_20")]], false],
    ["Perplexity by factor", [["perplexity", points("log_perplexity", Math.exp)]], true],
    ["Ratings by factor", [["concept", points("concept_rating")], ["fluency", points("fluency_rating")], ["judge score", points("judge_score")]].filter(([, values]) => values.some((one) => one !== null)), false, MOST_RATING],
  ].filter(([, series]) => series.length > 0 && series.some(([, values]) => values.some((one) => one !== null))), [rows]);
  const column = (title, name) => [title, "steering", name];
  return <Section title="How hard: by factor" tables={["steering"]}>
    <p>{factor === null ? "No factor is recommended: it did not steer at any." : `Recommended: factor ${factor}, chosen by ${chosenBy}.`}</p>
    <Panels factors={factors} panels={drawn} chosen={factor} />
    <details><summary>The same as a table</summary><Table caption="Means by factor"
      headers={["factor", column("GenSuccess@20", "gen_success_20"), column("perplexity", "log_perplexity"), column("concept", "concept_rating"), column("fluency", "fluency_rating"), column("judge score", "judge_score"), column("texts", "n")]}
      rows={rows.map((row) => [row.factor, row.gen_success_20, row.log_perplexity === null ? null : Math.exp(row.log_perplexity), row.concept_rating, row.fluency_rating, row.judge_score, row.n])} /></details>
  </Section>;
}

function Chosen({ columns, rows }) {
  const index = useContext(Index), column = (title, name) => [title, "outcomes", name];
  return <Section title={`Scores by rule. ${splitOf(index.features)}`} tables={["outcomes", "best_factors"]}>
    <Table caption={scoreName(index.features, "outcomes")} headers={["rule", column("factors", "factors"), column("net success", "net_gen_success_20"), column("GenSuccess@20", "gen_success_20"), column("concept", "concept_rating"), column("fluency", "fluency_rating"), column("judge score", "judge_score")]}
      rows={objects({ columns, rows }).map((row) => [row.rule, row.factors.map((one) => one ?? "none").join(", "), row.net_gen_success_20, row.gen_success_20, row.concept_rating, row.fluency_rating, row.judge_score])} /></Section>;
}

function Neighbours({ layer, feature, rows }) {
  return <Section title="Neighbours by cosine of the decoder rows" tables={["saes"]}>
    <p class="quiet">The nearest of the features in this report.</p>
    <Table caption="Neighbours" headers={["feature", "cosine", "label", "top logit-lens tokens", "beside it"]}
      rows={rows.map(([other, cosine, label, lens]) => [<a href={`#/feature/${layer}/${other}`}>{layer}/{other}</a>, cosine, label || "no label",
        lens.map((token) => visible(token).trim()).join(" "), <a href={`#/compare/features/${layer}/${feature}/${layer}/${other}`}>compare</a>])} /></Section>;
}
