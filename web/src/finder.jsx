// A search for features by label, top logit-lens tokens and words of their examples, or by number.

import { useContext, useEffect, useId, useReducer, useState } from "preact/hooks";
import { TITLES } from "./features.jsx";
import { Index, show, usePromise } from "./parts.jsx";

const MOST_SHOWN = 8, N_PRESETS = 6, DEFAULT_STRENGTH = 1;
const FEATURE = /^\s*(\d+)\/(\d+)\s*$/;

/** The table's columns that a choice needs. */
async function columnsOf(table, index) {
  const wanted = ["feature", "order", ...index.table.numbers.map(([name]) => name).filter((name) => name === "strength" || name === index.table.ranked_by)];
  return Object.fromEntries(await Promise.all(wanted.map(async (name) => [name, await table.numbers(name)])));
}

/** A row's feature at its recommended strength. */
const choice = (table, columns, row) => ({
  layer: table.layerOf(row), feature: columns.feature[row],
  factor: String(Number.isFinite(columns.strength?.[row]) ? Number(columns.strength[row].toPrecision(6)) : DEFAULT_STRENGTH),
});

/** Features that steer well, each at its recommended strength: those of highest rank, with different labels. */
export async function presetsOf(table, index) {
  const columns = await columnsOf(table, index), labels = await table.wholeText("label"), byLabel = new Map();
  for (const row of columns.order) {
    const score = columns[index.table.ranked_by]?.[row];
    if (byLabel.size === N_PRESETS || !Number.isFinite(score) || (byLabel.size > 0 && score <= 0)) break; // to begin with, the best, however good
    const label = table.textOf(labels, row);
    if (!byLabel.has(label)) byLabel.set(label, { label, feature: choice(table, columns, row) });
  }
  return [...byLabel.values()];
}

/** Rows that fit, the best first: the whole label, a whole word, a word's beginning, anywhere; then in the table's order. */
function rowsThatFit(table, columns, texts, text) {
  const [, layer, feature] = FEATURE.exec(text) ?? [], marks = new Uint8Array(table.n);
  if (feature === undefined) texts.forEach((column, at) => table.mark(column, text, marks, texts.length - 1 - at));
  const fits = (row) => (feature === undefined ? marks[row] : table.layerOf(row) === Number(layer) && columns.feature[row] === Number(feature));
  return Array.from(columns.order.filter(fits)).sort((a, b) => marks[b] - marks[a]);
}

/** `chosen` are the features that another one is added to: those of one layer steer together. */
export function Finder({ table, chosen, onChoose }) {
  const ids = { input: useId(), list: useId() }, index = useContext(Index), rank = index.table.ranked_by;
  const [needle, setNeedle] = useState(""), [at, setAt] = useState(0), [came, textsCame] = useReducer((n) => n + 1, 0);
  const { value: columns } = usePromise(() => columnsOf(table, index), []);
  const text = needle.trim().toLowerCase(), names = ["label", "lens", ...(text ? ["more"] : [])];
  const texts = names.map((name) => table.text(name, textsCame)), [label, lens] = texts;
  const canBeAdded = (row) => !chosen.length || (table.layerOf(row) === chosen[0].layer && !chosen.some((one) => one.feature === columns.feature[row]));
  const all = columns && text ? rowsThatFit(table, columns, texts, text) : [], rows = all.filter(canBeAdded), shown = rows.slice(0, MOST_SHOWN);
  useEffect(() => setAt(0), [needle, came]);
  const take = (row) => {
    if (row === undefined) return;
    onChoose(choice(table, columns, row));
    setNeedle("");
  };
  const move = (step) => setAt((old) => (shown.length ? (old + step + shown.length) % shown.length : 0));
  const keys = { Enter: () => take(shown[at]), ArrowDown: () => move(1), ArrowUp: () => move(-1), Escape: () => setNeedle("") };
  const pressed = (event) => {
    if (!keys[event.key]) return;
    event.preventDefault(); // Enter writes nothing
    keys[event.key]();
  };
  const of = chosen.length ? ` of layer ${chosen[0].layer}` : "", isLoading = !columns || !texts.every((column) => column.done);
  const said = [
    rows.length > MOST_SHOWN && `${rows.length - MOST_SHOWN} more: be more specific.`,
    all.length > rows.length && `${all.length - rows.length} more cannot be added: only other features${of} can. Remove what is chosen to take one of them.`,
    isLoading ? "Loading …" : !all.length && "No feature has this label, token or word.",
  ];
  const isShown = (row) => FEATURE.test(text) || `${table.textOf(label, row)}\n${table.textOf(lens, row)}`.toLowerCase().includes(text);
  const score = (row) => (columns[rank] && !Number.isNaN(columns[rank][row]) ? ` · ${TITLES[rank]} ${show(columns[rank][row])}` : "");
  return <div class="finder"><span class="field grow"><label for={ids.input}>Add a feature{of}: search a concept, a token, a word of its examples, or LAYER/FEATURE</label>
    <input id={ids.input} type="text" role="combobox" aria-expanded={shown.length > 0} aria-controls={ids.list} aria-autocomplete="list"
      aria-activedescendant={shown.length ? `${ids.list}-${at}` : undefined} value={needle} autocomplete="off" spellcheck={false} onKeyDown={pressed} onInput={(event) => setNeedle(event.target.value)} /></span>
    <ul class="found" id={ids.list} role="listbox" aria-label="Features that fit">{shown.map((row, place) => <li id={`${ids.list}-${place}`} role="option" aria-selected={place === at} onClick={() => take(row)}>
      <strong>{table.layerOf(row)}/{columns.feature[row]}</strong> {table.textOf(label, row) || "no label"} <span class="quiet">{table.textOf(lens, row)}{isShown(row) ? "" : ` · “${text}” in its examples or further tokens`}{score(row)}</span></li>)}</ul>
    {text && <p class="quiet" role="status">{said.filter(Boolean).join(" ")}</p>}</div>;
}
