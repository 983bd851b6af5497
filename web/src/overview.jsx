import { useContext, useState } from "preact/hooks";
import { served } from "./data.js";
import { Choice, Index, Section, Table, objects, show } from "./parts.jsx";

export function Overview() {
  const index = useContext(Index);
  return <>
    <h1 tabIndex={-1}>{index.name}</h1>
    <p class="lead">{index.description}</p>
    <p>Model {index.model}. {index.table.n.toLocaleString("en")} features in {index.layers.length} {index.layers.length === 1 ? "layer" : "layers"}
      {index.methods ? `, ${index.methods.keys.length} steering methods` : ""}: <a href="#/features">all features</a>{index.methods && <>, <a href="#/methods">all methods</a></>}.</p>
    {index.headline.length > 0 && <Section title="What was found" tables={["features", "outcomes", "selection", "best_factors"]}>
      <Headline rows={index.headline} /></Section>}
    {index.methods && <BestMethods />}
    <Section title="Layers" tables={["features"]}>
      <Table caption="Layers" headers={["layer", "features", ["median input score", "features", "input_score"], ["median output score", "features", "output_score"]]}
        rows={index.layers.map(([layer, n, input, output]) => [<a href={`#/features?layer=${layer}`}>{`layer ${layer}`}</a>, n, input, output])} /></Section>
    {index.figures.length > 0 && <Section title="Figures"><div class="figures">{index.figures.map(([name, caption]) => <figure>
      <a href={`figures/${name}.png`}><img src={`figures/${name}.png`} alt={name.replaceAll("_", " ")} loading="lazy" /></a><figcaption>{caption}</figcaption></figure>)}</div></Section>}
    {index.mixed.length > 0 && <Section title="Rows of several versions"><p>Rows of these tables were made with several versions of a library:</p><ul>{index.mixed.map((one) => <li>{one}</li>)}</ul></Section>}
    {index.missing.length > 0 && <Section title="Not in this report"><p>There are no tables of these:</p><ul>{index.missing.map((one) => <li>{one}</li>)}</ul></Section>}
  </>;
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
    headers={["method", column("score [95 %]", "score"), ...(equalCost.length ? [[`at ≤ ${show(equalCost[0].limit)} nats`, "method_equal_cost", "score"]] : []), column("concept", "concept_rating"), ...(instructed ? [column("instruction", "instruction_rating")] : []), column("fluency", "fluency_rating"),
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
      <ul>{one.files.map(([name, address, digest]) => <li><a href={served ? `files/${name}` : address}>{name}</a> <span class="digest">SHA-256 {digest}</span></li>)}</ul>
      {one.columns.length > 0 && <Table caption={`Columns of ${one.table}`} headers={["column", "meaning", "empty when"]}
        rows={one.columns.map(([name, meaning, empty]) => [<code id={`column-${one.table}-${name}`} class={one.table === table && name === column ? "chosen" : undefined}>{name.split("_").map((part, i) => (i ? <>_<wbr />{part}</> : part))}</code>, meaning, empty ?? "never"])} />}
    </details>)}
  </>;
}
