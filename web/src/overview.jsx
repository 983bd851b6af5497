import { useContext, useState } from "preact/hooks";
import { HeldOut, Pair, heldOut, levelOf, scoreName, splitOf } from "./answer.jsx";
import { entry, served } from "./data.js";
import { Choice, Index, Section, Table, Waiting, objects, show, usePromise } from "./parts.jsx";

const N_BEST = 4;

export function Overview({ table }) {
  const index = useContext(Index);
  return <>
    <h1 tabIndex={-1}>{index.name}</h1>
    <p class="lead">{index.description}</p>
    <dl class="facts ran">{index.ran.map(([name, value]) => <div><dt>{name}</dt><dd>{value}</dd></div>)}</dl>
    <p>{index.table.n.toLocaleString("en")} features in {index.layers.length} {index.layers.length === 1 ? "layer" : "layers"}
      {index.methods ? `, ${index.methods.keys.length} steering methods` : ""}: <a href="#/features">all features</a>{index.methods && <>, <a href="#/methods">all methods</a></>}.</p>
    {index.features.rule && <BestFeatures table={table} />}
    {index.methods && <BestMethods />}
    {index.headline.length > 0 && <Section title="What P1 found, and whether it holds here" tables={["features", "outcomes", "selection", "best_factors"]}>
      <p>P1 is the paper <a href="https://arxiv.org/abs/2505.20063" rel="noopener noreferrer" target="_blank">SAEs Are Good for Steering – If You Select the Right Features</a>. A feature's <b>input score</b> says how often what activates it is one of its top
        logit-lens tokens, its <b>output score</b> how far steering raises one of them, both from 0 to 1. <b>Net</b> of unsteered texts: minus their success. A dash: there is no such number.</p>
      <Headline rows={index.headline} /></Section>}
    <Section title="Layers" tables={["features"]}>
      <Table caption="Layers" headers={["layer", "features", ["median input score", "features", "input_score"], ["median output score", "features", "output_score"]]}
        rows={index.layers.map(([layer, n, input, output]) => [<a href={`#/features?layer=${layer}`}>{`layer ${layer}`}</a>, n, input, output])} /></Section>
    {index.figures.length > 0 && <Section title="Figures"><div class="figures">{index.figures.map(([name, caption]) => <figure class={name}>
      <a href={`figures/${name}.png`}><img src={`figures/${name}.png`} alt={name.replaceAll("_", " ")} loading="lazy" /></a><figcaption>{caption}</figcaption></figure>)}</div></Section>}
    {index.mixed.length > 0 && <Section title="Rows of several versions"><p>Rows of these tables were made with several versions of a library:</p><ul>{index.mixed.map((one) => <li>{one}</li>)}</ul></Section>}
    {index.missing.length > 0 && <Section title="Not in this report"><p>There are no tables of these:</p><ul>{index.missing.map((one) => <li>{one}</li>)}</ul></Section>}
  </>;
}

/** The first features of the table, which are those of the largest gain, each with a good text. */
function BestFeatures({ table }) {
  const index = useContext(Index);
  const pages = usePromise(async () => Promise.all(Array.from((await table.numbers("order")).slice(0, N_BEST), (row) => entry("f", index.features.starts, row))), []);
  const best = pages.value?.filter((page) => page.answer?.held_out && page.recommended[0] !== null);
  return <Section title="Best features, by gain over unsteered texts" tables={["outcomes", "steering"]}>
    <p>A <b>feature</b> is a direction in the model's activations that a sparse autoencoder (SAE) found; steering adds it, times a <b>factor</b>, while the model writes. The <b>judge score</b> (0 to 2) says how far a text is about the feature's
      concept and fluent. <b>GenSuccess@20</b> (0 to 20) counts its tokens among the 20 that the feature promotes most, its <b>top logit-lens tokens</b>. {splitOf(index.features)}. Brackets: {levelOf(index.features)} intervals over
      prompts; where one of a gain reaches 0, steering is not shown. The text is the best of the first prompts.</p>
    {best?.length > 0 && best.every((page) => !(heldOut(index, page).gain_low > 0)) && <p>Of none of these is the gain shown to be above 0.</p>}
    {!best ? <Waiting error={pages.error} /> : best.length === 0 ? <p>No feature's texts have a {scoreName(index.features)}.</p> : best.map((page) => <article class="best">
      <h3><a href={`#/feature/${page.row[0]}/${page.row[1]}`}>Feature {page.row[0]}/{page.row[1]}</a> {page.label || "no label"}</h3>
      <p><HeldOut page={page} /></p>{page.answer.text && <Pair columns={index.features.texts} page={page} level={4} />}</article>)}</Section>;
}

/** The findings with their verdicts; the numbers without one are folded away. */
function Headline({ rows }) {
  const findings = rows.filter(([, , holds]) => holds), numbers = rows.filter(([, , holds]) => !holds);
  return <><Table caption="What was found" headers={["what", "measured", "holds"]} rows={findings} />
    <details><summary>{numbers.length} more numbers</summary><Table caption="More numbers" headers={["what", "measured"]} rows={numbers.map(([what, measured]) => [what, measured])} /></details></>;
}

function BestMethods() {
  const index = useContext(Index), layers = [...new Set(objects(index.methods.table).map((row) => row.layer))];
  return <Section title="Best methods" tables={["methods"]}>{layers.map((layer) => <>
    <h3>Layer {layer}</h3><MethodTable layer={layer} most={5} /></>)}</Section>;
}

const interval = (row, name) => (row[`${name}_low`] === null ? "" : ` [${show(row[`${name}_low`])}, ${show(row[`${name}_high`])}]`);

export function MethodTable({ layer, most }) {
  const index = useContext(Index);
  const rows = objects(index.methods.table).filter((row) => row.layer === layer).sort((a, b) => (b.score ?? -1) - (a.score ?? -1)).slice(0, most);
  const column = (title, name) => [title, "methods", name], instructed = rows.some((row) => row.instruction_rating !== null);
  const equalCost = objects(index.methods.equal_cost).filter((row) => row.layer === layer), limited = Object.fromEntries(equalCost.map((row) => [row.method, row]));
  const limitedScore = (row) => (row ? { sort: row.score, shown: <span class="nowrap">{show(row.score)}{interval(row, "score")}</span> } : null);
  return <Table sortable={!most} caption={`Steering methods, layer ${layer}`}
    headers={["method", column(`score [${levelOf(index.methods)}]`, "score"), ...(equalCost.length ? [[`at ≤ ${show(equalCost[0].limit)} nats`, "method_equal_cost", "score"]] : []), column("concept", "concept_rating"), ...(instructed ? [column("instruction", "instruction_rating")] : []), column("fluency", "fluency_rating"),
      column("abstains", "n_abstaining"), column("factor", "median_factor"), column("perplexity", "perplexity"), column("labelled texts", "labelled_texts"), column("fit, s", "fit_seconds")]}
    rows={rows.map((row) => [{ sort: row.title, shown: <a class="name" href={`#/method/${row.method}`}>{row.title}</a> }, { sort: row.score, shown: <span class="nowrap">{show(row.score)}{interval(row, "score")}</span> },
      ...(equalCost.length ? [limitedScore(limited[row.method])] : []), row.concept_rating, ...(instructed ? [row.instruction_rating] : []), row.fluency_rating, row.n_abstaining, row.median_factor, row.perplexity, row.labelled_texts, row.fit_seconds])} />;
}

export function Methods() {
  const index = useContext(Index), all = objects(index.methods.table), layers = [...new Set(all.map((row) => row.layer))];
  const [layer, setLayer] = useState(layers.at(-1));
  const titles = Object.fromEntries(all.map((row) => [row.method, row.title]));
  const published = objects(index.methods.published).filter((row) => row.layer === layer);
  return <>
    <h1 tabIndex={-1}>Steering methods</h1>
    <p>{index.methods.protocol}</p>
    <div class="fields"><Choice label="Layer" value={layer} options={layers.map((one) => [one, one])} onChange={(value) => setLayer(Number(value))} /></div>
    <MethodTable layer={layer} />
    <details><summary>How to read the columns</summary><p>{index.methods.notes[layer]}</p></details>
    {published.length > 0 && <Section title="Published figures beside ours" tables={["method_published"]}>
      <details><summary>{published.length} published figures</summary><p>A difference between figures whose protocols do not match says nothing about either.</p>
      <Table sortable caption="Published figures beside ours" headers={["method", "ours", "published", "of", "source", "their model", "protocols differ in"]}
        rows={published.map((row) => [titles[row.method] ?? row.method, row.ours, row.theirs, row.their_scale, `${row.source}, ${row.place}${row.task ? `: ${row.task}` : ""}`,
          `${row.their_model}${row.their_layer ? `, ${row.their_layer}` : ""}`, row.matches ? "nothing" : [...row.differs, ...row.not_stated.map((one) => `${one} (not stated)`)].join(", ").replaceAll("_", " ")])} /></details>
    </Section>}
  </>;
}

/** Every table behind the numbers, its files, and what its columns mean. */
export function Files({ table, column }) {
  const index = useContext(Index);
  return <>
    <h1 tabIndex={-1}>Files</h1>
    <p>What this report is made from, with all digits and all rows.{!served && " The links work where the report lies in its project's folder."}</p>
    {index.files.map((one) => <details open={one.table === table} id={`table-${one.table}`}>
      <summary><code>{one.table}</code></summary>
      <ul>{one.files.map(([name, address, digest]) => <li>{served || address ? <a href={served ? `files/${name}` : address}>{name}</a> : name} <span class="digest">SHA-256 {digest}</span></li>)}</ul>
      {one.columns.length > 0 && <Table caption={`Columns of ${one.table}`} headers={["column", "meaning", "empty when"]}
        rows={one.columns.map(([name, meaning, empty]) => [<code id={`column-${one.table}-${name}`} class={one.table === table && name === column ? "chosen" : undefined}>{name.split("_").map((part, i) => (i ? <>_<wbr />{part}</> : part))}</code>, meaning, empty ?? "never"])} />}
    </details>)}
  </>;
}
