import { useContext, useMemo, useState } from "preact/hooks";
import { levelOf, scoreName } from "./answer.jsx";
import { entry, load } from "./data.js";
import { Choice, Index, Num, Panels, Section, Table, Texts, Waiting, objects, show, usePromise } from "./parts.jsx";

export function MethodPage({ method, level = 1 }) {
  const index = useContext(Index), number = index.methods?.keys.indexOf(method) ?? -1;
  const page = usePromise(async () => {
    if (number < 0) return null;
    return load(`m/${number}`);
  }, [method]);
  const rows = number < 0 ? [] : objects(index.methods.table).filter((row) => row.method === method);
  const Title = level === 1 ? "h1" : "h2";
  return <article><Title tabIndex={-1}>{rows[0]?.title ?? method}</Title>
    {number < 0 ? <p class="error" role="alert">No method “{method}” is in this report. Its methods: {index.methods.keys.map((one, i) => <>{i > 0 && ", "}<a href={`#/method/${one}`}>{one}</a></>)}.</p>
      : page.value ? <Method key={method} page={page.value} rows={rows} method={method} level={level} /> : <Waiting error={page.error} />}</article>;
}

const TEXT_USE = { choice: "they choose or train it", scale: "they say what factor 1 adds", none: "none", unlabelled: "they choose it where no feature has the concept's label", base: "for a base model only" };
const FACTS = [["rank", "rank in its layer"], ["concept_rating", "concept rating"], ["instruction_rating", "instruction rating"], ["fluency_rating", "fluency rating"], ["perplexity", "perplexity"],
  ["n_abstaining", "concepts it abstains from"], ["n_concepts", "concepts"], ["median_factor", "median factor"], ["share_at_smallest", "share at its smallest factor"], ["share_at_largest", "share at its largest factor"], ["labelled_texts", "labelled texts"], ["density", "density of its features"],
  ["learning_rate", "learning rate"], ["n_epochs", "epochs"], ["r2", "R² of effects"], ["fit_seconds", "seconds to fit"], ["seconds_per_token", "seconds a token"]];

function Method({ page, rows, method, level }) {
  const index = useContext(Index), layers = rows.map((row) => row.layer), [layer, setLayer] = useState(layers.at(-1));
  const row = rows.find((one) => one.layer === layer), damage = objects(page.method_damage).find((one) => one.layer === layer);
  const of = (name) => objects(page[name]).filter((one) => one.layer === layer);
  const scores = useMemo(() => of("method_scores"), [layer]), curves = useMemo(() => of("method_curves"), [layer]), differences = useMemo(() => of("method_differences"), [layer]), equalCost = useMemo(() => of("method_equal_cost"), [layer]);
  const titles = Object.fromEntries(objects(index.methods.table).map((one) => [one.method, one.title]));
  return <>
    <p class="quiet"><code>{method}</code>, {row.family}{row.paper && `, ${row.paper}`}. Chosen by: {row.chosen_by || "nothing"}. Labelled texts: {TEXT_USE[row.text_use] ?? "none"}.</p>
    <p class="links">{level === 1 && <a href={`#/compare/methods/${method}`}>Compare with another method</a>}</p>
    {layers.length > 1 && <div class="fields"><Choice label="Layer" value={layer} options={layers.map((one) => [one, one])} onChange={(value) => setLayer(Number(value))} /></div>}
    <Section title="In short" tables={["methods", "method_damage"]}>
      <dl class="facts">{[["score", scoreName(index.methods)], ...FACTS].filter(([name]) => row[name] !== null).map(([name, title]) => <div><dt>{title}</dt><dd><Num table="methods" column={name} value={row[name]} />
        {name === "score" && row.score_low !== null && <span class="quiet"> [{show(row.score_low)}, {show(row.score_high)}]</span>}</dd></div>)}
        {damage && <div><dt>rise of the loss on ordinary text</dt><dd><Num table="method_damage" column="loss_rise" value={damage.loss_rise} /></dd></div>}
        {damage?.other_rating != null && <div><dt>rating of other topics</dt><dd><Num table="method_damage" column="other_rating" value={damage.other_rating} /></dd></div>}</dl></Section>
    {curves.length > 1 && <MethodCurves rows={curves} />}
    {equalCost.length > 0 && <EqualCost rows={equalCost} />}
    <Concepts key={layer} scores={scores} method={method} layer={layer} />
    {differences.length > 0 && <Section title="Against the other methods" tables={["method_differences"]}><details><summary>{differences.length} differences, paired by concept</summary>
      <Table sortable caption="Differences from other methods" headers={["other method", ["score minus the other's", "method_differences", "mean"], levelOf(index.methods), ["share of concepts won", "method_differences", "win_rate"], levelOf(index.methods), ["p, all pairs", "method_differences", "p_all_pairs"], "concepts", "beside it"]}
        rows={differences.map((one) => [{ sort: titles[one.other] ?? one.other, shown: <a href={`#/method/${one.other}`}>{titles[one.other] ?? one.other}</a> }, one.mean, sorted(one.low, one.high), one.win_rate, sorted(one.win_rate_low, one.win_rate_high), one.p_all_pairs, one.n,
          <a href={`#/compare/methods/${method}/${one.other}`}>compare</a>])} /></details></Section>}
  </>;
}

/** The factors that the halves chose as a cell that is sorted by the larger one. */
const strongestOf = (factors) => {
  const known = factors.filter((factor) => factor !== null).map(Number);
  return { sort: known.length ? Math.max(...known) : null, shown: factors.map((factor) => factor ?? "none").join(", ") };
};

/** An interval as a cell that is sorted by its lower end. */
const sorted = (low, high) => ({ sort: low, shown: ends(low, high) });

const ends = (low, high) => (low === null ? "–" : `${show(low)} to ${show(high)}`);

function MethodCurves({ rows }) {
  const factors = useMemo(() => rows.map((row) => row.factor), [rows]);
  const ratings = useMemo(() => [["concept", rows.map((row) => row.concept_rating)], ["fluency", rows.map((row) => row.fluency_rating)], ["score", rows.map((row) => row.score)]], [rows]);
  const perplexity = useMemo(() => [["perplexity", rows.map((row) => row.perplexity)]], [rows]);
  const column = (title, name) => [title, "method_curves", name];
  return <Section title="How hard: by factor" tables={["method_curves"]}>
    <Panels factors={factors} panels={[["Ratings by factor, mean over concepts", ratings, false, 2], ["Perplexity by factor", perplexity, true]]} />
    <details><summary>The same as a table</summary><Table caption="Means by factor" headers={["factor", column("score", "score"), column("concept", "concept_rating"), column("fluency", "fluency_rating"), column("perplexity", "perplexity"), column("times chosen", "n_chosen")]}
      rows={rows.map((row) => [row.factor, row.score, row.concept_rating, row.fluency_rating, row.perplexity, row.n_chosen])} /></details></Section>;
}

function EqualCost({ rows }) {
  const index = useContext(Index), column = (title, name) => [title, "method_equal_cost", name], between = (row, name) => (row[`${name}_low`] === null ? "–" : ends(row[`${name}_low`], row[`${name}_high`]));
  return <Section title="At equal cost" tables={["method_equal_cost"]}>
    <p>At its strongest under a limit on its damage, how far the next-token distribution on ordinary text moves. Where no factor is within the limit, a concept counts as unsteered.</p>
    <Table caption="Score under a limit on damage" headers={[column("at most, nats", "limit"), column(scoreName(index.methods), "score"), levelOf(index.methods), column("divergence", "divergence"), levelOf(index.methods), column("share unsteered", "share_unsteered")]}
      rows={rows.map((row) => [row.limit, row.score, between(row, "score"), row.divergence, between(row, "divergence"), row.share_unsteered])} /></Section>;
}

function Concepts({ scores, method, layer }) {
  const index = useContext(Index), texts = index.methods.texts[method], fitted = texts?.[layer] ? layer : Object.keys(texts ?? {})[0];
  const [concept, setConcept] = useState(scores[0]?.concept_id), row = scores.find((one) => one.concept_id === concept), number = index.methods.keys.indexOf(method);
  const page = usePromise(async () => {
    const [concepts, starts] = texts?.[fitted] ?? [[], [0]], at = concepts.indexOf(concept);
    return at < 0 ? null : entry(`t/${number}-${fitted}`, starts, at);
  }, [concept, fitted]);
  const column = (title, name) => [title, "method_scores", name];
  if (!scores.length) return null;
  return <>
    <Section title="Concept by concept" tables={["method_scores"]}><Table sortable caption="Scores by concept"
      headers={["concept", column("score", "score"), column("factors", "factors"), column("concept rating", "concept_rating"), column("fluency", "fluency_rating"), column("abstains", "abstains")]}
      rows={scores.map((one) => [{ sort: one.concept, shown: <button type="button" class="link" onClick={() => setConcept(one.concept_id)} aria-pressed={one.concept_id === concept}>{one.concept}</button> }, one.score,
        strongestOf(one.factors), one.concept_rating, one.fluency_rating, one.abstains ? one.reason ?? "yes" : "no"])} /></Section>
    {texts && <Section title={`Texts: ${row.concept}`} tables={["generations", "judge", "perplexity"]}>
      <div class="fields"><Choice label="Concept" value={concept} options={scores.map((one) => [one.concept_id, one.concept])} onChange={setConcept} /></div>
      {page.value ? page.value.rows.length ? <Texts key={concept} columns={index.methods.text_columns} rows={page.value.rows} best={row.factors.filter((one) => one !== null)} /> : <p>It abstains: {page.value.reason ?? "no text"}.</p> : "value" in page ? <p>There are no texts of it.</p> : <Waiting error={page.error} />}
    </Section>}
  </>;
}
