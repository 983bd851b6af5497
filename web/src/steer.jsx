// Steering live, where `saesteer serve` is behind the page. The address is the request: what has been written is shown with the setting of
// its address, whatever has been changed in the form since.

import { useContext, useEffect, useId, useRef, useState } from "preact/hooks";
import { word } from "./answer.jsx";
import { entry, events, load, post } from "./data.js";
import { TITLES } from "./features.jsx";
import { Finder, presetsOf } from "./finder.jsx";
import { Activations, Choice, Copy, Field, Index, Section, objects, show, usePromise, visible } from "./parts.jsx";
import { EDITS, N_SAMPLES, address, bodyOf, faultOf, read } from "./setting.js";

const DEFAULT_STRENGTH = "1", REMOVALS = ["ablation", "projection"], START = "#/steer", SAVE_AFTER = 300; // browsers limit how often history changes
const written = new Map(); // runs that have ended, by address, so that Back shows them at once

/** Writes a setting's texts; `onChange` gets the run as far as it is: { setting, texts: [unsteered, steered], next, fault, going }. */
async function write(setting, controller, onChange) {
  const texts = [false, true].map(() => Array.from({ length: setting.samples }, () => ({ text: "", finish: null })));
  const run = { setting, texts, next: null, fault: faultOf(setting), going: true };
  const isWhole = () => run.texts.flat().every((one) => one.finish), changed = (changes) => onChange({ ...Object.assign(run, changes) });
  if (run.fault) return changed({ texts: null, going: false });
  changed({});
  try {
    const { prompt, steering } = bodyOf(setting), [first] = setting.features;
    const looked = first && post("api/next", { prompt, steering, layer: first.layer, feature: first.feature }, controller.signal).then((answer) => answer.json());
    looked?.catch(() => {}); // both requests are refused for the same reason, which is said once
    for await (const one of events(await post("api/steer", bodyOf(setting), controller.signal), isWhole)) {
      changed({ texts: run.texts.map((of, side) => of.map((old, sample) => (side === Number(one.steered) && sample === one.sample ? one : old))) });
    }
    changed({ next: looked ? await looked : null, going: false });
    written.set(address(setting), run);
  } catch (error) {
    const texts = run.texts.flat().some((one) => one.text) ? run.texts : null;
    changed(error.name === "AbortError" ? { going: false } : { texts, fault: error.message, going: false });
  }
}

export function Steer({ table, query }) {
  const index = useContext(Index), [draft, setDraft] = useState(history.state?.draft ?? null), [run, setRun] = useState(null), [refusal, setRefusal] = useState(""), running = useRef(null);
  const { value: presets = [] } = usePromise(() => presetsOf(table, index), []);
  const blank = read(new URLSearchParams(), index), request = query.size ? read(query, index) : null, key = request && address(request);
  const presetOf = ({ feature }) => ({ ...blank, features: [feature], edit: index.features.edit });
  const begun = presets.length > 0 ? presetOf(presets[0]) : blank, form = draft ?? request ?? begun;
  const stop = () => running.current?.abort();
  const start = (setting) => {
    stop();
    const controller = (running.current = new AbortController());
    write(setting, controller, (state) => running.current === controller && setRun(state));
  };
  useEffect(() => {
    setDraft(history.state?.draft ?? null);
    setRun(written.get(key) ?? null);
    setRefusal("");
    if (key && !written.has(key)) start(request);
    return () => { stop(); running.current = null; };
  }, [key]);
  useEffect(() => {
    const saving = setTimeout(() => history.replaceState({ draft }, ""), SAVE_AFTER);
    return () => clearTimeout(saving);
  }, [draft, key]);
  const set = (changes) => setDraft((old) => ({ ...(old ?? request ?? begun), unread: [], ...changes }));
  const go = (to) => {
    history.replaceState(null, ""); // Back leads to what was written, not to what was changed after it
    setDraft(null);
    if (to === key) start(request); else location.hash = to;
  };
  const submit = (event) => {
    event.preventDefault();
    const fault = faultOf(form);
    setRefusal(fault);
    if (!fault) go(address(form));
  };
  return <>
    <h1 tabIndex={-1}>Steer</h1>
    {presets.length > 0 && <p class="links presets"><span class="quiet">Examples:</span>{presets.map((one) => <a href={address(presetOf(one))}>{one.label || `${one.feature.layer}/${one.feature.feature}`}</a>)}</p>}
    <Form {...{ table, form, set }} isBegun={form === begun} onSubmit={submit} onStop={stop} onReset={() => { setRun(null); setRefusal(""); go(START); }} />
    {(refusal || run?.fault) && <p class="error" role="alert">{refusal || run.fault}</p>}
    {run?.texts && <Written {...{ run, set }} isStale={address(form) !== address(run.setting)} onRestore={() => setDraft(null)} />}
    <Sentence table={table} features={form.features} />
  </>;
}

function Form({ table, form, set, isBegun, onSubmit, onStop, onReset }) {
  const index = useContext(Index), prompts = useId(), added = useRef(null); // the feature as it was before it was taken away
  const setEdit = (edit) => {
    const [one] = form.features, isSame = added.current?.layer === one.layer && added.current.feature === one.feature;
    if (!REMOVALS.includes(form.edit)) added.current = one;
    const factor = REMOVALS.includes(edit) ? DEFAULT_STRENGTH : REMOVALS.includes(form.edit) && isSame ? added.current.factor : one.factor;
    set({ edit, features: [{ ...one, factor }] });
  };
  const setFeatures = (features) => set({ fit: null, features, edit: features.length === 1 ? form.edit : "addition" });
  const value = (name) => ({ value: form[name], onInput: (event) => set({ [name]: event.target.value }) });
  return <form noValidate onSubmit={onSubmit}>
    <Finder table={table} chosen={form.features} onChoose={(one) => setFeatures([...form.features, one])} />
    {isBegun && form.features.length > 0 && <p>To begin with: the feature with the highest {TITLES[index.table.ranked_by]}, at its recommended strength.</p>}
    {form.features.length > 0 && <ul class="strengths">{form.features.map((one, at) => <Strength key={`${one.layer}/${one.feature}`} {...{ table, one }} edit={form.edit}
      onChange={(factor) => setFeatures(form.features.map((old, i) => (i === at ? { ...old, factor } : old)))} onRemove={() => setFeatures(form.features.filter((_, i) => i !== at))} />)}</ul>}
    {index.methods && <Fit fit={form.fit} onChange={(fit) => set({ fit, features: fit ? [] : form.features, edit: "addition" })} />}
    {typeof form.prompt === "string" ? <div class="fields"><Field label="Prompt" grow type="text" list={prompts} autocomplete="off" {...value("prompt")}>
      <datalist id={prompts}>{index.prompts.map((one) => <option value={one} />)}</datalist></Field></div>
      : <Turns turns={form.prompt} onChange={(prompt) => set({ prompt })} />}
    <div class="fields">
      {form.features.length === 1 && <Choice label="What is done with the feature" value={form.edit} options={EDITS}
        onChange={setEdit} />}
      <Choice label="Texts each" value={form.samples} options={N_SAMPLES.map((n) => [n, n])} onChange={(n) => set({ samples: Number(n) })} />
      <Field label="Tokens at most" min="1" {...value("length")} /><Field label="Temperature" min="0" max="2" {...value("temperature")} /><Field label="Seed" min="0" {...value("seed")} />
      <button class="main" type="submit">Write</button><button type="button" onClick={onStop}>Stop</button><button type="button" onClick={onReset}>Reset</button>
    </div>
  </form>;
}

/** A conversation that is answered, a box a turn. */
function Turns({ turns, onChange }) {
  const id = useId(), hasSystem = turns[0].role === "system";
  const write = (at, content) => onChange(turns.map((turn, i) => (i === at ? { ...turn, content } : turn)));
  return <fieldset class="turns"><legend>Conversation</legend>
    {turns.map(({ role, content }, at) => <div class={`turn-box ${role}`}><label for={`${id}${at}`}>{role}</label>
      {at < turns.length - 1 && <button type="button" class="link" aria-label={`remove the turn ${at + 1} of ${role}`} onClick={() => onChange(turns.filter((_, i) => i !== at))}>Remove</button>}
      <textarea id={`${id}${at}`} rows={2} value={content} onInput={(event) => write(at, event.target.value)} /></div>)}
    {!hasSystem && <button type="button" onClick={() => onChange([{ role: "system", content: "" }, ...turns])}>Add a system prompt</button>}</fieldset>;
}

/** What a run wrote, with the setting that it was written with; grey where the form has another one. */
function Written({ run, set, isStale, onRestore }) {
  const { setting } = run, index = useContext(Index), [one] = setting.fit ? [setting.fit] : setting.features.length === 1 && setting.edit === "addition" ? setting.features : [];
  const which = one && (setting.fit ? `${word(`${one.method}/${one.concept}`)} --layer ${one.layer}` : `${one.layer}/${one.feature}`);
  const names = setting.features.map((of) => `${of.layer}/${of.feature}${setting.edit === "ablation" ? "" : ` × ${of.factor}`}`).join(" + ");
  const steered = setting.fit ? `${setting.fit.method} for ${setting.fit.concept} × ${setting.fit.factor}` : names && `${EDITS.find(([name]) => name === setting.edit)[1]}: ${names}`;
  const goOn = (text) => set({ prompt: [...setting.prompt, { role: "assistant", content: text }, { role: "user", content: "" }] });
  return <div class={isStale ? "written stale" : "written"} aria-busy={run.going}>
    {isStale && <p role="status">These texts are of the setting before your changes. Press Write for new ones, or <button type="button" class="link" onClick={onRestore}>go back to their setting</button>.</p>}
    <Section title="Texts">
      {typeof setting.prompt !== "string" && setting.prompt.map(({ role, content }) => <div class={`turn-box ${role}`}><span class="quiet">{role}</span><p class="text">{content}</p></div>)}
      <div class="beside two">{["unsteered", "steered"].map((name, side) => <div key={name}><h3>{side ? `steered (${steered || "with nothing"})` : name}</h3>
      <ol class="cards" aria-live="polite">{run.texts[side].map((text) => <Text {...{ text, run }} isSteered={side === 1} onGoOn={() => goOn(text.text)} />)}</ol></div>)}</div></Section>
    {run.next && <Next next={run.next} first={setting.features[0]} />}
    <Section title="Keep this setting"><p>As a link:</p><Copy text={new URL(address(setting), location.href).href} what="Link" />
      {one && (!setting.fit || index.methods?.vectors.includes(setting.fit.method)) && <><p>As a vector for llama.cpp, with the command:</p><Copy text={`saesteer export-vector ${index.name} ${which} --factor ${one.factor} --to gguf --output vector.gguf`} what="Command" /></>}</Section>
  </div>;
}

/** A text behind its prompt, or as the answer to the conversation above. */
function Text({ text: { text, finish }, run, isSteered, onGoOn }) {
  const { prompt } = run.setting, isAnswer = typeof prompt !== "string", end = finish ? null : run.going ? <span class="caret" aria-hidden="true" /> : <em class="quiet"> stopped</em>;
  return <li class={isSteered ? "card chosen" : "card"}>
    <div class={isAnswer ? "turn-box assistant" : undefined}>{isAnswer && <span class="quiet">assistant</span>}
      <p class={finish === "error" ? "text error" : "text"}>{!isAnswer && <span class="quiet">{prompt}</span>}{text}{end}</p></div>
    {isAnswer && finish && finish !== "error" && <button type="button" onClick={onGoOn}>Go on from this answer</button>}</li>;
}

/** Whether a sentence activates the features: the activation at each of its tokens. */
function Sentence({ table, features }) {
  const index = useContext(Index), [text, setText] = useState(""), [looked, setLooked] = useState(null), [fault, setFault] = useState(""), last = useRef(null);
  const most = async ({ layer, feature }) => {
    const row = await table.rowOf(layer, feature);
    return row < 0 ? null : (await entry("f", index.features.starts, row)).row[index.features.columns.indexOf("max_activation")];
  };
  const look = async (event) => {
    event.preventDefault();
    setFault("");
    const turn = (last.current = {}), isLast = () => last.current === turn; // answers may come in another order
    try {
      const rows = await Promise.all(features.map(async (one) => {
        const body = { prompt: text, layer: one.layer, feature: one.feature };
        return { ...one, ...(await (await post("api/activations", body)).json()), most: await most(one) };
      }));
      if (isLast()) setLooked({ text, rows });
    } catch (error) {
      if (isLast()) { setFault(error.message); setLooked(null); }
    }
  };
  const isStale = looked && (looked.text !== text || String(features.map((one) => `${one.layer}/${one.feature}`)) !== String(looked.rows.map((one) => `${one.layer}/${one.feature}`)));
  return features.length > 0 && <Section title="Does a sentence activate it?">
    <form class="fields" onSubmit={look}><Field label="Sentence" grow type="text" required autocomplete="off" value={text} onInput={(event) => setText(event.target.value)} /><button type="submit">Look</button></form>
    {fault && <p class="error" role="alert">{fault}</p>}
    {looked && <div class={isStale ? "stale" : undefined}>{looked.rows.map((one) => <Activated {...one} />)}</div>}</Section>;
}

function Activated({ layer, feature, tokens, activations, most }) {
  const measured = activations.filter((value) => value !== null), largest = Math.max(0, ...measured), at = largest > 0 ? activations.indexOf(largest) : -1;
  if (measured.length === 0) return <p><strong>{layer}/{feature}</strong>: the first token is not measured on this model: write a word before it.</p>;
  const said = largest > 0 ? `is active: at most ${show(largest)}, at “${visible(tokens[at]).trim()}”` : "is not active on this sentence";
  return <><p><strong>{layer}/{feature}</strong> {said}{measured.length < tokens.length && " (its first token is not measured)"}{most ? `; ${show(most)} is the largest on its max-activating examples` : ""}.</p>
    <p class="activated"><Activations tokens={tokens} values={activations} most={Math.max(most ?? 0, largest, 1e-9)} at={at} /></p></>;
}

/** Instead of features: what a method of the comparison fitted for a concept. At first with the larger of the factors that the halves chose. */
function Fit({ fit, onChange }) {
  const { methods } = useContext(Index);
  const titles = [...new Map(objects(methods.table).filter(({ method }) => method !== "unsteered").map(({ method, title }) => [method, title]))];
  const fitsOf = async (method) => objects((await load(`m/${methods.keys.indexOf(method)}`)).method_scores).filter((one) => !one.abstains);
  const { value: fits = [] } = usePromise(async () => (fit ? fitsOf(fit.method) : []), [fit?.method]);
  const choose = async ({ method, layer, concept }) => {
    const all = method ? await fitsOf(method) : [], same = all.filter((one) => one.concept === concept);
    const one = same.find((other) => other.layer === layer) ?? same[0] ?? all[0], factors = one?.factors.filter((factor) => factor !== null) ?? [];
    onChange(one ? { method, layer: one.layer, concept: one.concept, factor: factors.length ? String(Math.max(...factors)) : DEFAULT_STRENGTH } : null);
  };
  const options = (name) => [...new Set([fit[name], ...fits.map((one) => one[name])])].map((one) => [one, one]);
  return <div class="fields"><Choice label="Or what a method fitted" value={fit?.method ?? ""} options={[["", "nothing"], ...titles]} onChange={(method) => choose({ ...fit, method })} />
    {fit && <><Choice label="for the concept" value={fit.concept} options={options("concept")} onChange={(concept) => choose({ ...fit, concept })} />
      <Choice label="at layer" value={fit.layer} options={options("layer")} onChange={(layer) => choose({ ...fit, layer: Number(layer) })} />
      <Field label="Strength" min="-1000" max="1000" value={fit.factor} onInput={(event) => onChange({ ...fit, factor: event.target.value })} /></>}</div>;
}

function Strength({ table, one, edit, onChange, onRemove }) {
  const id = useId(), [label, setLabel] = useState("");
  useEffect(() => { table.rowOf(one.layer, one.feature).then((row) => { const column = table.text("label", () => setLabel(table.textOf(column, row) ?? "")); setLabel(table.textOf(column, row) ?? ""); }); }, []);
  return <li><label for={id}><a href={`#/feature/${one.layer}/${one.feature}`}>{one.layer}/{one.feature}</a> {label}</label>
    <input type="range" min="-6" max="6" step="0.1" value={one.factor} disabled={edit === "ablation"} aria-label={`strength of ${one.layer}/${one.feature}, slider`} onInput={(event) => onChange(event.target.value)} />
    <input id={id} type="number" min="-1000" max="1000" step="any" value={one.factor} disabled={edit === "ablation"} onInput={(event) => onChange(event.target.value)} />
    <button type="button" onClick={onRemove} aria-label={`remove ${one.layer}/${one.feature}`}>Remove</button></li>;
}

/** Log-probabilities of the first feature's top logit-lens tokens as the next token. */
function Next({ next, first }) {
  const least = Math.min(...next.unsteered, ...next.steered), width = (value) => ({ "--share": (value - least) / Math.max(1e-9, -least) });
  return <Section title={`The next token: top logit-lens tokens of ${first.layer}/${first.feature}`}>
    <table class="bars"><caption class="quiet">Log-probability in nats right after the prompt; longer is likelier.</caption>
      <thead><tr><th scope="col">token</th><th scope="col">unsteered</th><th scope="col">steered</th></tr></thead>
      <tbody>{next.tokens.map((token, i) => <tr><th scope="row">{visible(token)}</th>{[next.unsteered[i], next.steered[i]].map((value, side) => <td><span class={side ? "bar steered" : "bar"} style={width(value)} /> {show(value)}</td>)}</tr>)}</tbody>
    </table></Section>;
}
