// The table of all features: its columns in memory, the rows in view in the page.

import { useContext, useEffect, useId, useLayoutEffect, useMemo, useReducer, useRef, useState } from "preact/hooks";
import { Virtualizer, elementScroll, observeElementOffset, observeElementRect } from "@tanstack/virtual-core";
import { FITS, matching, ordered } from "./data.js";
import { Choice, From, Index, Waiting, show, useMedia, usePromise } from "./parts.jsx";

const ROW = 38, NARROW_ROW = 94; // heights of a row; on a narrow screen it has its texts below each other
const MOST = 400_000; // rows that a browser can scroll over: taller boxes are cut off
export const TITLES = { gain: "gain", strength: "factor", output_score: "output score", input_score: "input score", density: "density", net_gen_success_20: "net success", gen_success_20: "GenSuccess@20", judge_score: "judge score" };
const FIRST = { needle: "", layer: "", concept: "", input_score: "", output_score: "", sort: "", descending: true, at: 0 };
const id = (needle) => /^\s*(\d+)\/(\d+)\s*$/.exec(needle);
let kept = FIRST; // so that one comes back to the same rows

function useVirtual(options) {
  const [, redraw] = useReducer((n) => n + 1, 0);
  const all = { observeElementRect, observeElementOffset, scrollToFn: elementScroll, ...options, onChange: redraw };
  const [virtual] = useState(() => new Virtualizer(all));
  virtual.setOptions(all);
  useLayoutEffect(() => virtual._didMount(), []);
  useLayoutEffect(() => virtual._willUpdate());
  return virtual;
}

export function Features({ table, query }) {
  const index = useContext(Index);
  const names = index.table.numbers.map(([name]) => name);
  const columns = usePromise(async () => Object.fromEntries(await Promise.all(["feature", "order", ...names].map(async (name) => [name, await table.numbers(name)]))), []);
  const layer = query.get("layer");
  if (layer !== null && kept.layer !== layer) kept = { ...FIRST, layer };
  return <>
    <h1 tabIndex={-1}>Features</h1>
    {columns.value ? <Grid key={layer} table={table} columns={columns.value} names={names} /> : <Waiting error={columns.error} />}
  </>;
}

function Grid({ table, columns, names }) {
  const index = useContext(Index), [view, setView] = useState(kept), [nTexts, textsCame] = useReducer((n) => n + 1, 0);
  const set = (changes) => setView((old) => (kept = { ...old, at: 0, ...changes }));
  const label = table.text("label", textsCame), lens = table.text("lens", textsCame);
  const [searched, search] = useState(kept.needle !== "");
  const more = searched ? table.text("more", textsCame) : null, needle = view.needle.trim().toLowerCase();
  const first = index.table.ranked_by ?? "", sort = names.includes(view.sort) || view.sort === "feature" ? view.sort : first;
  const broken = [label, lens, more].find((column) => column?.fault);
  const order = useMemo(() => (sort === first && view.descending ? columns.order : sort === "feature" ? Uint32Array.from({ length: table.n }, (_, i) => (view.descending ? table.n - 1 - i : i)) : ordered(columns[sort], view.descending)), [sort, view.descending]);
  const marks = useMemo(() => {
    const blank = () => new Uint8Array(table.n);
    return [...(needle && !id(needle) ? [[label, lens, more].reduce((rows, column) => (column ? table.mark(column, needle, rows) : rows), blank())] : []), ...(view.concept ? [table.mark(label, view.concept.toLowerCase(), blank()).map((fit, row) => fit === FITS.whole && table.textOf(label, row) === view.concept)] : [])];
  }, [view.needle, view.concept, view.needle || view.concept ? nTexts : 0]);
  const rows = useMemo(() => {
    const [, layer, feature] = id(view.needle) ?? [], within = layer ?? view.layer;
    const least = ["input_score", "output_score"].filter((name) => view[name] !== "" && columns[name]).map((name) => [columns[name], Math.fround(Number(view[name]))]);
    const made = matching(order, within === "" ? [0, table.n] : table.range(Number(within)), least, marks);
    return feature === undefined ? made : made.filter((row) => columns.feature[row] === Number(feature));
  }, [order, marks, view.needle, view.layer, view.input_score, view.output_score]);
  const narrow = useMedia("(max-width: 1100px)"), ids = { needle: useId(), input_score: useId(), output_score: useId() };
  const least = (name) => columns[name] && <span class="field"><label for={ids[name]}>{TITLES[name]} at least</label>
    <input id={ids[name]} type="number" step="any" inputMode="decimal" value={view[name]} onInput={(event) => set({ [name]: event.target.value })} /></span>;
  return <>
    <div class="fields" role="search">
      <span class="field grow"><label for={ids.needle}>Search labels, top logit-lens tokens and words of the max-activating examples, or LAYER/FEATURE</label>
        <input id={ids.needle} type="search" value={view.needle} onFocus={() => search(true)} onInput={(event) => { search(true); set({ needle: event.target.value }); }} autocomplete="off" spellcheck={false} /></span>
      <Choice label="Layer" value={view.layer} options={[["", "all"], ...index.table.layers.map(([layer]) => [layer, layer])]} onChange={(layer) => set({ layer })} />
      {index.table.concepts.length > 0 && <Choice label="Concept" value={view.concept} options={[["", "all"], ...index.table.concepts.map((one) => [one, one])]} onChange={(concept) => set({ concept })} />}
      {least("output_score")}{least("input_score")}
    </div>
    <p class="count" role="status">{rows.length.toLocaleString("en")} of {table.n.toLocaleString("en")} features{rows.length > MOST ? `; the first ${MOST.toLocaleString("en")} can be scrolled to` : ""}
      {label.done && lens.done && (!more || more.done) ? "" : "; texts are still being loaded"} <From tables={["features", "outcomes", "steering"]} /></p>
    {broken && <Waiting error={broken.fault} />}
    <Rows key={`${sort}${view.descending}${narrow}`} {...{ table, columns, names, rows, label, lens, more, needle, view, sort, set, narrow }} />
  </>;
}

/** The words of a text that a search was for, the first few. */
const hits = (text, needle) => (text ?? "").split(" ").filter((word, i, all) => word.toLowerCase().includes(needle) && all.indexOf(word) === i).slice(0, 3).join(" ");

function Rows({ table, columns, names, rows, label, lens, more, needle, view, sort, set, narrow }) {
  const box = useRef(null), wanted = useRef(null), n = Math.min(rows.length, MOST), height = narrow ? NARROW_ROW : ROW;
  const virtual = useVirtual({ count: n, getScrollElement: () => box.current, estimateSize: () => height, overscan: 12, scrollPaddingStart: 40, initialRect: { width: 800, height: 640 } });
  const at = Math.min(view.at, Math.max(0, n - 1));
  useEffect(() => { if (at) virtual.scrollToIndex(at, { align: "center" }); }, []);
  useEffect(() => { if (!view.at && box.current) box.current.scrollTop = 0; }, [rows]);
  useLayoutEffect(() => {
    const row = wanted.current !== null && box.current.querySelector(`[data-at="${wanted.current}"]`);
    if (row) { row.focus({ preventScroll: true }); wanted.current = null; }
  });
  const go = (to) => { wanted.current = Math.max(0, Math.min(n - 1, to)); virtual.scrollToIndex(wanted.current); set({ at: wanted.current }); };
  const address = (row) => `#/feature/${table.layerOf(row)}/${columns.feature[row]}`;
  const open = (place) => { set({ at: place }); location.hash = address(rows[place]); };
  const page = () => Math.max(1, Math.floor(box.current.clientHeight / height) - 2);
  const keys = { ArrowDown: (from) => go(from + 1), ArrowUp: (from) => go(from - 1), PageDown: (from) => go(from + page()), PageUp: (from) => go(from - page()), Home: () => go(0), End: () => go(n - 1), Enter: open };
  const pressed = (event) => {
    const from = event.target.dataset.at;
    if (from !== undefined && keys[event.key]) { event.preventDefault(); keys[event.key](Number(from)); }
  };
  const items = virtual.getVirtualItems().filter((item) => item.index < n), tabbed = items.some((item) => item.index === at) ? at : items[0]?.index;
  const header = (name, title, kind) => <span role="columnheader" class={kind} aria-sort={sort === name ? (view.descending ? "descending" : "ascending") : "none"}>
    <button type="button" onClick={() => set({ sort: name, descending: sort === name ? !view.descending : name !== "feature" })}>{title.split("@").map((part, i) => (i ? <><wbr />@{part}</> : part))}{sort === name ? (view.descending ? "\u00a0↓" : "\u00a0↑") : ""}</button></span>;
  const shown = (row) => `${table.textOf(label, row)}\n${table.textOf(lens, row)}`.toLowerCase();
  const hidden = (row) => more && needle && !id(needle) && !shown(row).includes(needle) && hits(table.textOf(more, row), needle);
  const style = { "--numbers": names.length };
  return <div class="grid" role="grid" aria-label="Features" aria-rowcount={n + 1} ref={box} onKeyDown={pressed} style={style}>
    <div role="row" class="row head" aria-rowindex={1}>{header("feature", "feature", "id")}<span role="columnheader" class="label">label</span><span role="columnheader" class="lens">top logit-lens tokens</span>
      {names.map((name) => header(name, TITLES[name], `number ${name}`))}</div>
    <div role="rowgroup" style={{ height: `${virtual.getTotalSize()}px`, position: "relative" }}>
      {items.map((item) => {
        const row = rows[item.index];
        return <div key={item.key} role="row" class="row" aria-rowindex={item.index + 2} data-at={item.index} tabIndex={item.index === tabbed ? 0 : -1}
          style={{ transform: `translateY(${item.start}px)` }} onClick={(event) => event.target.closest("a") || open(item.index)}>
          <span role="gridcell" class="id"><a href={address(row)} tabIndex={-1} onClick={() => set({ at: item.index })}>{table.layerOf(row)}/{columns.feature[row]}</a></span>
          <span role="gridcell" class="label">{table.textOf(label, row) === "" ? <span class="quiet">no label</span> : table.textOf(label, row) ?? "…"}</span>
          <span role="gridcell" class="lens">{hidden(row) && <><mark class="hit" title="among its other top logit-lens tokens or the words of its examples">{hidden(row)}</mark> </>}{table.textOf(lens, row) ?? "…"}</span>
          {names.map((name) => <span role="gridcell" class={`number ${name}`}>{show(columns[name][row])}</span>)}
        </div>;
      })}
    </div>
    {n === 0 && <p class="none">No feature fits. <button type="button" onClick={() => set({ ...FIRST })}>Show all</button></p>}
  </div>;
}
