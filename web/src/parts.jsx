// What every page uses: numbers with their sources, tables, curves, steered texts.

import { createContext } from "preact";
import { useContext, useEffect, useId, useLayoutEffect, useRef, useState } from "preact/hooks";
import uPlot from "uplot";

export const Index = createContext(null);

export const show = (value, digits = 3) => {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value)) return value.toLocaleString("en");
  const small = Math.abs(value) < 0.001 || Math.abs(value) >= 10000;
  return (small ? value.toExponential(1) : Number(value.toPrecision(digits)).toString()).replace("-", "−");
};

/** A token with its spaces and line ends to be seen. */
export const visible = (token) => token.replaceAll("▁", " ").replaceAll("\n", "⏎").replaceAll("\t", "⇥");

/** Rows of a table as objects. */
export const objects = (table) => (table ? table.rows.map((row) => Object.fromEntries(table.columns.map((name, i) => [name, row[i]]))) : []);

export function usePromise(start, needs) {
  const [state, set] = useState({});
  useEffect(() => {
    let current = true;
    set({});
    start().then((value) => current && set({ value }), (error) => current && set({ error }));
    return () => { current = false; };
  }, needs);
  return state;
}

/** A text, such as a command, and a button that copies it; where that is forbidden, the text is selected. */
export function Copy({ text, what }) {
  const place = useRef(null), [said, say] = useState("");
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      say(`${what} copied`);
    } catch {
      getSelection().selectAllChildren(place.current);
      say("Selected: copy it with the keyboard");
    }
  };
  return <p class="copy"><code ref={place}>{text}</code> <button type="button" onClick={copy}>Copy</button> <span class="quiet" role="status">{said}</span></p>;
}

/** Whether a media query holds, now and after it has changed. */
export function useMedia(query) {
  const [holds, set] = useState(matchMedia(query).matches);
  useEffect(() => {
    const media = matchMedia(query), turn = () => set(media.matches);
    turn();
    media.addEventListener("change", turn);
    return () => media.removeEventListener("change", turn);
  }, [query]);
  return holds;
}

export function Waiting({ error }) {
  return error ? <p class="error" role="alert">{error.message}</p> : <p class="quiet" role="status">Loading …</p>;
}

/** A number that leads to the table it comes from. */
export function Num({ table, column, value, digits }) {
  const index = useContext(Index);
  const [, meaning] = index.files.find((one) => one.table === table)?.columns.find(([name]) => name === column) ?? [];
  return <a class="num" href={`#/files/${table}/${column}`} title={meaning}>{show(value, digits)}</a>;
}

export function From({ tables }) {
  const index = useContext(Index), there = tables.filter((name) => index.files.some((one) => one.table === name));
  return there.length > 0 && <span class="from">from {there.map((name, i) => <>{i ? ", " : ""}<a href={`#/files/${name}`}>{name}</a></>)}</span>;
}

export function Section({ title, tables, children }) {
  return <section><div class="heading"><h2>{title}</h2>{tables && <From tables={tables} />}</div>{children}</section>;
}

/** A table whose rows are all there; a header is a name, or a name, the table and the column that it shows. */
export function Table({ caption, headers, rows, sortable }) {
  const [sort, setSort] = useState(null);
  const plain = (cell) => (cell && typeof cell === "object" && "sort" in cell ? cell.sort : cell);
  const compare = (a, b) => {
    const [x, y] = [plain(a[sort.at]), plain(b[sort.at])];
    if (x === null || x === undefined || x === "–") return 1;
    if (y === null || y === undefined || y === "–") return -1;
    return (x < y ? -1 : x > y ? 1 : 0) * (sort.descending ? -1 : 1);
  };
  const shown = sort ? [...rows].sort(compare) : rows;
  const header = (one, at) => {
    const [name, table, column] = [].concat(one), state = sort?.at === at && (sort.descending ? "descending" : "ascending");
    const turn = () => setSort({ at, descending: sort?.at === at ? !sort.descending : typeof plain(rows[0]?.[at]) === "number" });
    const source = table && <a class="where" href={`#/files/${table}/${column}`} aria-label={`where ${name} comes from`}>↗</a>;
    return <th scope="col" aria-sort={state || undefined}>{sortable ? <button type="button" onClick={turn}>{name}{state ? (sort.descending ? " ↓" : " ↑") : ""}</button> : name} {source}</th>;
  };
  const content = (cell) => (cell && typeof cell === "object" && "sort" in cell ? cell.shown : typeof cell === "number" || cell === null ? show(cell) : cell);
  return <div class="wide" tabIndex={0} role="group" aria-label={caption}>
    <table class={sortable ? "sortable" : undefined}><caption class="hidden">{caption}</caption>
      <thead><tr>{headers.map(header)}</tr></thead>
      <tbody>{shown.map((row) => <tr>{row.map((cell) => <td class={typeof plain(cell) === "number" ? "right" : undefined}>{content(cell)}</td>)}</tr>)}</tbody>
    </table></div>;
}

/** A text's tokens, coloured by a feature's activation at each; underlined at the largest. */
export function Activations({ tokens, values, most, at }) {
  return tokens.map((token, i) => {
    if (!values[i] && i !== at) return visible(token);
    const [, space, rest] = /^(\s*)([^]*)$/.exec(visible(token)), heat = Math.round(15 + 85 * Math.min(1, (values[i] ?? 0) / most));
    return <>{rest && space}<mark class={i === at ? "most" : undefined} style={{ "--heat": `${heat}%` }} title={show(values[i])}>{rest || space}</mark></>;
  });
}

export function Field({ label, grow, type = "number", children, ...input }) {
  const id = useId();
  return <span class={grow ? "field grow" : "field"}><label for={id}>{label}</label><input id={id} type={type} step="any" {...input} />{children}</span>;
}

export function Choice({ label, value, options, onChange }) {
  const id = useId();
  return <span class="field"><label for={id}>{label}</label>
    <select id={id} value={value} onChange={(event) => onChange(event.target.value)}>
      {options.map(([key, name]) => <option value={key} selected={String(key) === String(value)}>{name}</option>)}
    </select></span>;
}

const SERIES = ["--line-1", "--line-2", "--line-3"];

/** A line across a drawing at one of the factors. */
const line = (at, colour) => ({ draw: [({ ctx, bbox, valToPos }) => {
  const x = Math.round(valToPos(at, "x", true));
  ctx.save();
  ctx.strokeStyle = colour;
  ctx.setLineDash([4, 4]);
  ctx.beginPath(); ctx.moveTo(x, bbox.top); ctx.lineTo(x, bbox.top + bbox.height); ctx.stroke();
  ctx.restore();
}] });

/** Curves over factors, below each other on one axis: `panels` are [title, series, log, most], `chosen` a factor to mark. */
export function Panels({ factors, panels, chosen }) {
  return <div class="panels">{panels.map(([title, series, log, most], i) => <Curves key={title} {...{ title, factors, series, log, most, chosen }} last={i === panels.length - 1} />)}
    <p class="axis" aria-hidden="true">steering factor{factors.includes(chosen) && <span class="quiet"> (dashed line: the recommended one)</span>}</p></div>;
}

/** The same numbers stand in a table below, so the drawing itself is hidden from screen readers. */
function Curves({ title, factors, series, log, most, chosen, last }) {
  const place = useRef(null), dark = useMedia("(prefers-color-scheme: dark)");
  useLayoutEffect(() => {
    const style = getComputedStyle(place.current), colour = (name) => {
      place.current.style.color = `var(${name})`;
      return style.color;
    };
    const [ink, grid] = [colour("--quiet"), colour("--rule")], font = "12px system-ui, sans-serif";
    const axis = { stroke: ink, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid, width: 1 }, font };
    const values = (self, ticks) => ticks.map((tick) => (tick === null ? "" : tick.toLocaleString("en", { notation: "compact" })));
    const decades = (self, ticks) => ticks.map((tick) => (tick !== null && Math.abs(Math.log10(tick) - Math.round(Math.log10(tick))) < 1e-9 ? tick : null));
    const rising = log ? { filter: decades, grid: { ...axis.grid, filter: decades }, ticks: { ...axis.ticks, filter: decades } } : {};
    const crowded = place.current.clientWidth / factors.length < 34;
    const marks = factors.map((_, i) => i); // factors stand side by side: they are a grid, and 0 has no place on a log axis
    const plot = new uPlot({
      width: place.current.clientWidth, height: last ? 186 : 156, legend: { show: false }, cursor: { show: false },
      scales: { x: { time: false, range: [-0.3, marks.length - 0.7] }, y: log ? { distr: 3 } : { range: (self, low, high) => [Math.min(0, low), 1.08 * (most ?? (high > 0 ? high : 1))] } },
      hooks: factors.includes(chosen) ? line(factors.indexOf(chosen), colour("--chosen")) : {},
      axes: [{ ...axis, size: last ? 32 : 8, splits: () => marks, values: () => factors.map((factor, i) => (!last || (crowded && i % 2) ? "" : factor)) }, { ...axis, ...rising, size: 58, values }],
      series: [{}, ...series.map(([, points], i) => ({ stroke: colour(SERIES[i]), width: 2, dash: [[], [7, 3], [2, 3]][i], points: { show: true, size: 5 }, spanGaps: true }))],
    }, [marks, ...series.map(([, points]) => points)], place.current);
    place.current.style.color = "";
    const resized = new ResizeObserver(() => place.current && plot.setSize({ width: place.current.clientWidth, height: last ? 186 : 156 }));
    resized.observe(place.current);
    return () => { resized.disconnect(); plot.destroy(); };
  }, [dark, factors, series, chosen]);
  return <figure class="curve"><figcaption>{title}{!title.toLowerCase().startsWith(series[0][0].toLowerCase()) && <ul class="key">{series.map(([name], i) => <li class={`key-${i + 1}`}>{name}</li>)}</ul>}</figcaption>
    <div ref={place} aria-hidden="true" /></figure>;
}

const RATINGS = [["concept_rating", "concept"], ["instruction_rating", "instruction"], ["fluency_rating", "fluency"], ["judge_score", "score"]];

/** Steered texts of one prompt, a card a factor. */
export function Texts({ columns, rows, best, first }) {
  const index = useContext(Index), [prompt, setPrompt] = useState(first ?? null);
  const all = objects({ columns, rows }), prompts = [...new Set(all.map((row) => row.prompt))].sort((a, b) => a - b);
  const current = prompts.includes(prompt) ? prompt : prompts[0];
  const own = all.filter((row) => row.prompt === current).sort((a, b) => a.factor - b.factor || a.sample - b.sample);
  const number = (column, value) => <Num table={column === "mean_nll" ? "perplexity" : column === "gen_success_20" ? "gen_success" : "judge"} column={column} value={value} />;
  return <>
    <div class="fields"><Choice label="Prompt" value={current} options={prompts.map((one) => [one, index.prompts[one]])} onChange={(value) => setPrompt(Number(value))} />
      {index.limits.n_prompts > prompts.length && <span class="quiet">{prompts.length} of {index.limits.n_prompts} prompts are in this report.</span>}</div>
    <ol class="cards">{own.map((row) => <li class={best?.includes(row.factor) ? "card chosen" : "card"}>
      <h3>factor {row.factor}{row.factor === "0" ? ", unsteered" : ""}{best?.includes(row.factor) ? <span class="tag">chosen</span> : null}</h3>
      <p class="text"><span class="quiet">{index.prompts[current]}{index.answers && "\n"}</span>{row.text || <em class="quiet"> (nothing)</em>}</p>
      <dl class="inline">{RATINGS.filter(([name]) => row[name] !== null).map(([name, title]) => <div><dt>{title}</dt><dd>{number(name, row[name])}</dd></div>)}
        {row.gen_success_20 !== null && <div><dt>top logit-lens tokens</dt><dd>{number("gen_success_20", row.gen_success_20)}</dd></div>}
        {row.mean_nll !== null && <div><dt>loss</dt><dd>{number("mean_nll", row.mean_nll)}</dd></div>}</dl>
    </li>)}</ol></>;
}
