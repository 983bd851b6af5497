// Steering live, where `saesteer serve` is behind the page: features and strengths, a prompt, and both texts as they grow.

import { useContext, useEffect, useId, useReducer, useRef, useState } from "preact/hooks";
import { word } from "./answer.jsx";
import { ask, load } from "./data.js";
import { TITLES } from "./features.jsx";
import { Choice, Copy, Index, Section, objects, show, usePromise, visible } from "./parts.jsx";

const N_FOUND = 8, N_SAMPLES = [1, 2, 3, 5, 8], DEFAULT_STRENGTH = 1;
const FEATURE = /^\s*(\d+)\/(\d+)\s*$/;

/** What the address says: features as LAYER/FEATURE*STRENGTH, or a fit as METHOD/LAYER*STRENGTH and a concept; a prompt, the number of samples. */
function asked(query, index) {
  const features = query.getAll("f").map((one) => /^(\d+)\/(\d+)\*(-?[\d.]+)$/.exec(one)).filter(Boolean)
    .map(([, layer, feature, factor]) => ({ layer: Number(layer), feature: Number(feature), factor }));
  const [, method, layer, factor] = /^(\w+)\/(\d+)\*(-?[\d.]+)$/.exec(query.get("m") ?? "") ?? [];
  const fit = index.methods?.keys.includes(method) ? { method, layer: Number(layer), concept: query.get("c") ?? "", factor } : null;
  return { features, fit, prompt: query.get("p") ?? index.prompts[0] ?? "", samples: Number(query.get("n")) || 2, seed: query.get("s") ?? "0" };
}

const address = ({ features, fit, prompt, samples, seed }) => `#/steer?${new URLSearchParams([
  ...features.map((one) => ["f", `${one.layer}/${one.feature}*${one.factor}`]), ...(fit ? [["m", `${fit.method}/${fit.layer}*${fit.factor}`], ["c", fit.concept]] : []), ["p", prompt], ["n", samples], ["s", seed]])}`;

const strong = (one) => ({ ...one, factor: Number(one.factor) });
const steering = ({ features, fit }) => (fit ? { fit: strong(fit) } : { features: features.map(strong) });

const post = (path, body, signal) => ask(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal });

/** The events of a stream, each a JSON value. */
async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ;) {
    const { value, done } = await reader.read();
    const lines = (rest + (value ?? "")).split(/\r?\n/);
    rest = lines.pop();
    for (const line of lines) if (line.startsWith("data: ")) yield JSON.parse(line.slice(6));
    if (done) return;
  }
}

export function Steer({ table, query }) {
  const index = useContext(Index), [form, setForm] = useState(() => asked(query, index)), [begins, setBegins] = useState(query.size === 0);
  const [texts, setTexts] = useState(null), [next, setNext] = useState(null), [fault, setFault] = useState(""), running = useRef(null);
  const ids = { prompt: useId(), samples: useId(), seed: useId(), prompts: useId() };
  const set = (changes) => setForm((old) => ({ ...old, ...changes }));
  const add = (layer, feature, factor) => set({ fit: null, features: [...form.features, { layer, feature, factor: String(factor ?? DEFAULT_STRENGTH) }] });
  const setFeatures = (features) => { setBegins(false); set({ features }); };
  const stop = () => running.current?.abort();
  useEffect(() => stop, []);
  const start = async (event) => {
    event?.preventDefault();
    stop();
    const controller = (running.current = new AbortController());
    history.replaceState(null, "", address(form));
    setFault(""); setNext(null);
    const grown = [false, true].map(() => Array(form.samples).fill({ text: "", finish: null }));
    setTexts(grown);
    try {
      const body = { prompt: form.prompt, steering: steering(form) }, [first] = form.features;
      const looked = first && post("api/next", { ...body, layer: first.layer, feature: first.feature }, controller.signal).then((answer) => answer.json());
      looked?.catch(() => {}); // both requests are refused for the same reason, which is said once
      for await (const one of events(await post("api/steer", { ...body, samples: form.samples, seed: Number(form.seed) }, controller.signal))) {
        grown[Number(one.steered)] = grown[Number(one.steered)].map((old, sample) => (sample === one.sample ? one : old));
        setTexts([...grown]);
      }
      if (looked) setNext(await looked);
    } catch (error) {
      if (error.name === "AbortError") return;
      setFault(error.message);
      setTexts((old) => (old.flat().some((one) => one.text) ? old : null));
    } finally {
      if (running.current === controller) running.current = null;
    }
  };
  const [one] = form.fit ? [form.fit] : form.features.length === 1 ? form.features : [];
  const which = one && (form.fit ? `${word(`${one.method}/${one.concept}`)} --layer ${one.layer}` : `${one.layer}/${one.feature}`);
  const command = one && `saesteer export-vector ${index.name} ${which} --factor ${one.factor} --to gguf --output vector.gguf`;
  return <>
    <h1 tabIndex={-1}>Steer</h1>
    <form onSubmit={start}>
      <Finder table={table} onBegin={begins ? add : null} onChoose={(...one) => { setBegins(false); add(...one); }} />
      {begins && form.features.length > 0 && <p>To begin with: the feature with the highest {TITLES[index.table.ranked_by]}, at its recommended strength.</p>}
      {form.features.length > 0 && <ul class="strengths">{form.features.map((one, at) => <Strength key={`${one.layer}/${one.feature}`} {...{ table, one }}
        onChange={(factor) => setFeatures(form.features.map((old, i) => (i === at ? { ...old, factor } : old)))} onRemove={() => setFeatures(form.features.filter((_, i) => i !== at))} />)}</ul>}
      {index.methods && <Fit fit={form.fit} onChange={(fit) => set({ fit, features: fit ? [] : form.features })} />}
      <div class="fields">
        <span class="field grow"><label for={ids.prompt}>Prompt</label>
          <input id={ids.prompt} value={form.prompt} list={ids.prompts} required autocomplete="off" onInput={(event) => set({ prompt: event.target.value })} />
          <datalist id={ids.prompts}>{index.prompts.map((one) => <option value={one} />)}</datalist></span>
        <span class="field"><label for={ids.samples}>Texts each</label>
          <select id={ids.samples} value={form.samples} onChange={(event) => set({ samples: Number(event.target.value) })}>{N_SAMPLES.map((n) => <option value={n} selected={n === form.samples}>{n}</option>)}</select></span>
        <span class="field"><label for={ids.seed}>Seed</label><input id={ids.seed} type="number" min="0" step="1" value={form.seed} onInput={(event) => set({ seed: event.target.value })} /></span>
        <button class="main" type="submit">Write</button><button type="button" onClick={stop}>Stop</button>
      </div>
    </form>
    {fault && <p class="error" role="alert">{fault}</p>}
    {texts && <Section title="Texts"><div class="beside two">{["unsteered", "steered"].map((name, side) => <div key={name}><h3>{name}</h3>
      <ol class="cards" aria-live="polite">{texts[side].map((one) => <li class={side ? "card chosen" : "card"}><p class="text"><span class="quiet">{form.prompt}</span>{one.text}{!one.finish && <span class="caret" aria-hidden="true" />}</p></li>)}</ol></div>)}</div></Section>}
    {next && <Next next={next} first={form.features[0]} />}
    {texts && <Section title="Keep this setting"><p>As a link:</p><Copy text={location.href} what="Link" />
      {command && <><p>As a vector for llama.cpp, with the command:</p><Copy text={command} what="Command" /></>}</Section>}
  </>;
}

/** A search for features by label, top logit-lens tokens and words of their examples, or by number. `onBegin` gets the best one at once. */
function Finder({ table, onBegin, onChoose }) {
  const id = useId(), index = useContext(Index), [needle, setNeedle] = useState(""), [, came] = useReducer((n) => n + 1, 0), [columns, setColumns] = useState(null);
  const names = index.table.numbers.map(([name]) => name), rank = index.table.ranked_by;
  useEffect(() => {
    const needed = ["feature", "order", ...[rank, "strength"].filter((name) => names.includes(name))];
    Promise.all(needed.map(async (name) => [name, await table.numbers(name)])).then((loaded) => {
      const all = Object.fromEntries(loaded), [best] = all.order;
      setColumns(all);
      if (onBegin && Number.isFinite(all[rank]?.[best])) onBegin(...choice(all, best));
    });
  }, []);
  const choice = (all, row) => [table.layerOf(row), all.feature[row], Number.isFinite(all.strength?.[row]) ? Number(all.strength[row].toPrecision(6)) : null];
  const label = table.text("label", came), lens = table.text("lens", came), text = needle.trim().toLowerCase(), more = text ? table.text("more", came) : null;
  const rows = [];
  if (columns && text) {
    const [, layer, feature] = FEATURE.exec(text) ?? [];
    const marked = feature === undefined ? table.mark(more, text, table.mark(lens, text, table.mark(label, text, new Uint8Array(table.n)))) : null;
    for (const row of columns.order) if (marked ? marked[row] : table.layerOf(row) === Number(layer) && columns.feature[row] === Number(feature)) rows.push(row);
  }
  return <div class="finder"><span class="field grow"><label for={id}>Add a feature: search a concept, a token, a word of its examples, or LAYER/FEATURE</label>
    <input id={id} type="search" value={needle} autocomplete="off" spellcheck={false} onInput={(event) => setNeedle(event.target.value)} /></span>
    {text && <ul class="found" aria-label="Features that fit">{rows.slice(0, N_FOUND).map((row) => <li><button type="button" onClick={() => { onChoose(...choice(columns, row)); setNeedle(""); }}><strong>{table.layerOf(row)}/{columns.feature[row]}</strong> {table.textOf(label, row) || "no label"} <span class="quiet">{table.textOf(lens, row)}{columns[rank] && !Number.isNaN(columns[rank][row]) ? ` · ${TITLES[rank]} ${show(columns[rank][row])}` : ""}</span></button></li>)}
      {rows.length === 0 && label.done && lens.done && more.done && <li class="quiet">No feature has this label, token or word.</li>}
      {rows.length > N_FOUND && <li class="quiet">{rows.length - N_FOUND} more: be more specific</li>}</ul>}</div>;
}

/** Instead of features: what a method of the comparison fitted for a concept. At first with the larger of the factors that the halves chose. */
function Fit({ fit, onChange }) {
  const id = useId(), { methods } = useContext(Index);
  const titles = [...new Map(objects(methods.table).filter(({ method }) => method !== "unsteered").map(({ method, title }) => [method, title]))];
  const fitsOf = async (method) => objects((await load(`m/${methods.keys.indexOf(method)}`)).method_scores).filter((one) => !one.abstains);
  const { value: fits = [] } = usePromise(async () => (fit ? fitsOf(fit.method) : []), [fit?.method]);
  const choose = async ({ method, layer, concept }) => {
    const all = method ? await fitsOf(method) : [], same = all.filter((one) => one.concept === concept);
    const one = same.find((other) => other.layer === layer) ?? same[0] ?? all[0], factors = one?.factors.filter((factor) => factor !== null) ?? [];
    onChange(one ? { method, layer: one.layer, concept: one.concept, factor: String(factors.length ? Math.max(...factors) : DEFAULT_STRENGTH) } : null);
  };
  const options = (name) => [...new Set([fit[name], ...fits.map((one) => one[name])])].map((one) => [one, one]);
  return <div class="fields"><Choice label="Or what a method fitted" value={fit?.method ?? ""} options={[["", "nothing"], ...titles]} onChange={(method) => choose({ ...fit, method })} />
    {fit && <><Choice label="for the concept" value={fit.concept} options={options("concept")} onChange={(concept) => choose({ ...fit, concept })} />
      <Choice label="at layer" value={fit.layer} options={options("layer")} onChange={(layer) => choose({ ...fit, layer: Number(layer) })} />
      <span class="field"><label for={id}>Strength</label><input id={id} type="number" min="-1000" max="1000" step="any" value={fit.factor} onInput={(event) => onChange({ ...fit, factor: event.target.value })} /></span></>}</div>;
}

function Strength({ table, one, onChange, onRemove }) {
  const id = useId(), [label, setLabel] = useState("");
  useEffect(() => { table.rowOf(one.layer, one.feature).then((row) => { const column = table.text("label", () => setLabel(table.textOf(column, row) ?? "")); setLabel(table.textOf(column, row) ?? ""); }); }, []);
  return <li><label for={id}><a href={`#/feature/${one.layer}/${one.feature}`}>{one.layer}/{one.feature}</a> {label}</label>
    <input type="range" min="-6" max="6" step="0.1" value={one.factor} aria-label={`strength of ${one.layer}/${one.feature}, slider`} onInput={(event) => onChange(event.target.value)} />
    <input id={id} type="number" min="-1000" max="1000" step="any" value={one.factor} onInput={(event) => onChange(event.target.value)} />
    <button type="button" onClick={onRemove} aria-label={`remove ${one.layer}/${one.feature}`}>Remove</button></li>;
}

/** Log-probabilities of the first feature's top logit-lens tokens as the next token. */
function Next({ next, first }) {
  const least = Math.min(...next.unsteered, ...next.steered), width = (value) => ({ width: `${(100 * (value - least)) / Math.max(1e-9, -least)}%` });
  return <Section title={`The next token: top logit-lens tokens of ${first.layer}/${first.feature}`}>
    <table class="bars"><caption class="quiet">Log-probability in nats right after the prompt; longer is likelier.</caption>
      <thead><tr><th scope="col">token</th><th scope="col">unsteered</th><th scope="col">steered</th></tr></thead>
      <tbody>{next.tokens.map((token, i) => <tr><th scope="row">{visible(token)}</th>{[next.unsteered[i], next.steered[i]].map((value, side) => <td><span class={side ? "bar steered" : "bar"} style={width(value)} /> {show(value)}</td>)}</tr>)}</tbody>
    </table></Section>;
}
