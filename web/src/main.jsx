import { render } from "preact";
import { useEffect, useId, useState } from "preact/hooks";
import "uplot/dist/uPlot.min.css";
import "./report.css";
import { load, openTable, served } from "./data.js";
import { FeaturePage } from "./feature.jsx";
import { Features, TITLES } from "./features.jsx";
import { MethodPage } from "./method.jsx";
import { Files, Methods, Overview } from "./overview.jsx";
import { Index, Waiting, objects, usePromise } from "./parts.jsx";
import { Steer } from "./steer.jsx";

const decoded = (part) => { try { return decodeURIComponent(part); } catch { return part; } };

const route = () => {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  return { path: path.split("/").map(decoded), query: new URLSearchParams(query ?? "") };
};

function App({ index, table }) {
  const [{ path, query }, setRoute] = useState(route);
  useEffect(() => {
    const turn = () => setRoute(route());
    addEventListener("hashchange", turn);
    return () => removeEventListener("hashchange", turn);
  }, []);
  const [kind, ...rest] = path, title = document.querySelector("main h1")?.textContent;
  useEffect(() => {
    const heading = document.querySelector("main h1");
    document.title = [kind && heading?.textContent, `${index.name}, saesteer`].filter(Boolean).join(" – ");
    if (location.hash) heading?.focus({ preventScroll: true });
    const place = kind === "files" && document.getElementById(rest.length > 1 ? `column-${rest[0]}-${rest[1]}` : `table-${rest[0]}`);
    if (place) place.scrollIntoView({ block: "center" }); else scrollTo(0, 0);
  }, [path.join("/")]);
  return <Index.Provider value={index}>
    <a class="skip" href="#main" onClick={(event) => { event.preventDefault(); document.querySelector("main h1")?.focus(); }}>Skip to the content</a>
    <header><nav aria-label="Pages"><a class="name" href="#/">saesteer <strong>{index.name}</strong></a>
      {pages(index).map(([to, name]) =>
        <a href={`#/${to}`} aria-current={kind === to || (to && kind === to.replace(/s$/, "")) ? "page" : undefined}>{name}</a>)}</nav></header>
    <main id="main">{page(kind, rest, query, index, table)}</main>
  </Index.Provider>;
}

const pages = (index) => [["", "Overview"], ["features", "Features"], ...(index.methods ? [["methods", "Methods"]] : []), ...(served ? [["steer", "Steer"]] : []), ["compare", "Compare"], ["files", "Files"]];

function page(kind, rest, query, index, table) {
  if (kind === "") return <Overview table={table} />;
  if (kind === "features") return <Features table={table} query={query} />;
  if (kind === "feature") return <FeaturePage table={table} layer={Number(rest[0])} feature={Number(rest[1])} />;
  if (kind === "steer" && served) return <Steer table={table} query={query} />;
  if (kind === "methods" && index.methods) return <Methods />;
  if (kind === "method" && index.methods) return <MethodPage method={rest[0]} />;
  if (kind === "compare") return <Compare of={rest[0] === "methods" && index.methods ? "methods" : "features"} rest={rest.slice(1)} index={index} table={table} />;
  if (kind === "files") return <Files table={rest[0]} column={rest[1]} />;
  return <><h1 tabIndex={-1}>No such page</h1><p>This report has no page “{kind}”. Its pages:</p>
    <ul>{pages(index).map(([to, name]) => <li><a href={`#/${to}`}>{name}</a></li>)}</ul></>;
}

/** Two good features to begin with: those of highest judge score (or what the table is ordered by), with different labels where there are such. */
async function goodFeatures(table) {
  const [order, feature] = await Promise.all(["order", "feature"].map((name) => table.numbers(name))), labels = await table.wholeText("label");
  const name = (row) => [String(table.layerOf(row)), String(feature[row])], [first] = order;
  const second = order.find((row) => table.textOf(labels, row) !== table.textOf(labels, first)) ?? order[1];
  return [first, second].filter((row) => row !== undefined).map(name);
}

/** The two methods of highest score at the last layer. */
function goodMethods({ methods }) {
  const rows = objects(methods.table), last = rows.at(-1)?.layer;
  return rows.filter((row) => row.layer === last).sort((a, b) => (b.score ?? -1) - (a.score ?? -1)).slice(0, 2).map((row) => [row.method]);
}

/** Two features, or two methods, side by side; without a choice, two good ones. */
function Compare({ of, rest, index, table }) {
  const given = of === "features" ? [rest.slice(0, 2), rest.slice(2, 4)] : [rest.slice(0, 1), rest.slice(1, 2)], free = !rest[0];
  const good = usePromise(async () => (free ? of === "features" ? goodFeatures(table) : goodMethods(index) : null), [of, free]);
  if (free && !good.value) return <><h1 tabIndex={-1}>Compare {of}</h1><Waiting error={good.error} /></>;
  const parts = free ? [good.value[0] ?? [], good.value[1] ?? []] : given;
  const go = (place, value) => {
    const chosen = parts.map((one, i) => (i === place ? value : one.join("/"))).filter(Boolean);
    location.hash = `#/compare/${of}/${chosen.join("/")}`;
  };
  return <>
    <h1 tabIndex={-1}>Compare {of}</h1>
    {index.methods && <p class="links"><a href="#/compare/features">Features</a><a href="#/compare/methods">Methods</a></p>}
    {free && <p>To begin with: the two {of} with the highest {of === "methods" ? "score" : `${TITLES[index.table.ranked_by] ?? "score"}${index.table.concepts.length > 1 ? " and different labels" : ""}`}. Choose others below.</p>}
    <div class="beside">{parts.map((one, place) => <div>
      <Chooser of={of} value={one.join("/")} place={place} index={index} onChange={(value) => go(place, value)} />
      {one.length === (of === "features" ? 2 : 1) && one[0] !== "" && (of === "features" ? <FeaturePage key={one.join("/")} table={table} layer={Number(one[0])} feature={Number(one[1])} level={2} /> : <MethodPage key={one[0]} method={one[0]} level={2} />)}
    </div>)}</div>
  </>;
}

function Chooser({ of, value, place, index, onChange }) {
  const id = useId(), [text, setText] = useState(value), name = `${["First", "Second"][place]} ${of.slice(0, -1)}`;
  useEffect(() => setText(value), [value]);
  if (of === "methods") {
    const titles = new Map(index.methods.table.rows.map((row) => [row[index.methods.table.columns.indexOf("method")], row[index.methods.table.columns.indexOf("title")]]));
    return <span class="field"><label for={id}>{name}</label><select id={id} value={value} onChange={(event) => onChange(event.target.value)}>
      <option value="">choose one</option>{index.methods.keys.map((key) => <option value={key} selected={key === value}>{titles.get(key)}</option>)}</select></span>;
  }
  return <form class="field" onSubmit={(event) => { event.preventDefault(); if (/^\d+\/\d+$/.test(text.trim())) onChange(text.trim()); }}>
    <label for={id}>{name}, LAYER/FEATURE</label><span class="joined"><input id={id} value={text} pattern="\s*\d+/\d+\s*" autocomplete="off" onInput={(event) => setText(event.target.value)} /><button>Show</button></span></form>;
}

load("index").then(
  (index) => render(<App index={index} table={openTable(index.table)} />, document.getElementById("report")),
  (error) => { document.getElementById("report").textContent = error.message; },
);
