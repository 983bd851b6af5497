// A setting of live steering: what is written, and with what. Its address holds all of it, so a link, Back and a reload give the same texts.

import { served } from "./data.js";

export const EDITS = [["addition", "add"], ["decay", "add, less at each token"], ["clamp", "clamp where active"], ["ablation", "set to 0 (ablate)"], ["projection", "project out"]];
export const N_SAMPLES = [1, 2, 3, 5, 8];
const FEATURE = /^(\d+)\/(\d+)\*(-?[\d.]*(?:[eE][-+]?\d+)?)$/, FIT = /^([\w-]+)\/(\d+)\*(-?[\d.]*(?:[eE][-+]?\d+)?)$/, TURN = /^(system|user|assistant):([^]*)$/;

/** A prompt in the model's form: of a model that answers the turns of a conversation, of others a text. */
const asPrompt = (text) => (served.turns ? [...served.turns.slice(0, -1), { role: "user", content: text }] : text);

/** What an address says; what it leaves out is as the experiment has it. */
export function read(query, index) {
  const features = query.getAll("f").map((one) => FEATURE.exec(one)).filter(Boolean)
    .map(([, layer, feature, factor]) => ({ layer: Number(layer), feature: Number(feature), factor }));
  const [, method, layer, factor] = FIT.exec(query.get("m") ?? "") ?? [];
  const turns = query.getAll("r").map((one) => TURN.exec(one)).filter(Boolean).map(([, role, content]) => ({ role, content }));
  return {
    features,
    unread: [...query.getAll("f").filter((one) => !FEATURE.test(one)), ...query.getAll("m").filter((one) => !FIT.test(one))],
    fit: method === undefined ? null : { method, layer: Number(layer), concept: query.get("c") ?? "", factor },
    edit: EDITS.some(([name]) => name === query.get("e")) && features.length === 1 ? query.get("e") : "addition",
    prompt: served.turns && turns.length ? turns : asPrompt(query.get("p") ?? index.prompts[0] ?? ""),
    samples: Number(query.get("n") ?? 2),
    seed: query.get("s") ?? String(served.seed),
    temperature: query.get("t") ?? String(served.temperature),
    length: query.get("l") ?? String(served.max_tokens),
  };
}

export const address = ({ features, fit, edit, prompt, samples, seed, temperature, length }) => `#/steer?${new URLSearchParams([
  ...features.map((one) => ["f", `${one.layer}/${one.feature}*${one.factor}`]),
  ...(fit ? [["m", `${fit.method}/${fit.layer}*${fit.factor}`], ["c", fit.concept]] : []),
  ...(edit === "addition" ? [] : [["e", edit]]),
  ...(typeof prompt === "string" ? [["p", prompt]] : prompt.map(({ role, content }) => ["r", `${role}:${content}`])),
  ["n", samples], ["s", seed], ["t", temperature], ["l", length],
])}`;

const isNumber = (text) => text.trim() !== "" && Number.isFinite(Number(text));

/** What keeps a setting from being written, in a sentence; "" where nothing does. */
export function faultOf({ features, fit, unread, prompt, samples, seed, temperature, length }) {
  if (unread.length) return `The address says “${unread[0]}”, which is neither LAYER/FEATURE*STRENGTH nor METHOD/LAYER*STRENGTH.`;
  if (!N_SAMPLES.includes(samples)) return `The address asks for another number of texts of each than ${N_SAMPLES.join(", ")}: choose one of these.`;
  const empty = [...features, ...(fit ? [fit] : [])].find((one) => !isNumber(one.factor));
  if (empty) return `The strength of ${fit ? `${fit.method} for ${fit.concept}` : `${empty.layer}/${empty.feature}`} is no number: type one, 0 for the unsteered text.`;
  const numbers = [["seed", seed, 0], ["temperature", temperature, 0], ["length", length, 1]];
  const wrong = numbers.find(([name, text, least]) => !isNumber(text) || Number(text) < least || (name !== "temperature" && !Number.isSafeInteger(Number(text))));
  if (wrong) return `The ${wrong[0]} is ${wrong[1] ? `“${wrong[1]}”` : "empty"}: type a${wrong[0] === "temperature" ? "" : " whole"} number from ${wrong[2]} up.`;
  const missing = typeof prompt === "string" ? !prompt : prompt.some((turn) => !turn.content);
  return missing ? `The ${typeof prompt === "string" ? "prompt" : "conversation has a turn that"} is empty: type a text to go on from.` : "";
}

const strong = (one) => ({ ...one, factor: Number(one.factor) });

const steeringOf = ({ features, fit, edit }) => (fit ? { fit: strong(fit) } : { features: features.map(strong), edit });

/** A conversation that differs from the experiment's in its last turn alone is named by that turn, as by `saesteer steer`. */
function promptOf({ prompt }) {
  const isNamed = typeof prompt !== "string" && JSON.stringify(prompt) === JSON.stringify(asPrompt(prompt.at(-1).content));
  return isNamed ? prompt.at(-1).content : prompt;
}

export const bodyOf = (setting) => ({
  prompt: promptOf(setting), steering: steeringOf(setting), samples: setting.samples,
  seed: Number(setting.seed), temperature: Number(setting.temperature), max_tokens: Number(setting.length),
});
