// What a feature's page begins with: one sentence, a good text beside the unsteered one, and the command that steers.

import { useContext } from "preact/hooks";
import { Copy, From, Index, Num, objects, show, visible } from "./parts.jsx";

const GOOD = 1, FAIR = 0.5; // judge scores, of 2, from which a feature steers, and steers weakly; GOOD of a gain in GenSuccess@20, too: a token a text
const quoted = (token) => `“${visible(token).trim()}”`;
const list = (names) => names.join(", ");

/** Where a feature steers to, in words: its label, or its first top logit-lens tokens. */
function towards(row, { label }) {
  if (row.concept) return label;
  return `its top logit-lens tokens (${list(row.top_logit_lens_tokens.slice(0, 3).map(quoted))})${label === "(function words)" ? ", function words" : ""}`;
}

function fluency([factor, isLargest]) {
  if (factor === null) return "no factor leaves the texts fluent";
  return isLargest ? `texts stay fluent at every factor, up to ${factor}` : `texts stay fluent up to factor ${factor}`;
}

const SCORES = { judge_score: ["judge score", 2], gen_success_20: ["GenSuccess@20", 20] };
const ends = (low, high) => (low === null ? "" : ` [${show(low)}, ${show(high)}]`);

/** How factors are chosen and scored. settings: of the index, with `held_out`. */
export const splitOf = (settings) => (settings.held_out ? "Held out: each half of the prompts at the factor chosen on the other" : "Not held out: factors are chosen and scored on the same prompts, which flatters them");
export const scoreName = (settings, title = "score") => `${settings.held_out ? "held-out" : "in-sample"} ${title}`;

/** A feature's score at its chosen factors, and how far it is above the unsteered texts'. */
export const heldOut = (index, page) => objects({ columns: index.features.answer, rows: [page.answer.held_out] })[0];

export function HeldOut({ page }) {
  const index = useContext(Index), of = heldOut(index, page), [title, most] = SCORES[of.measure];
  return <>{of.gain !== null && <>gain {show(of.gain)}{ends(of.gain_low, of.gain_high)} over unsteered, </>}{scoreName(index.features, title)}{" "}
    <Num table="outcomes" column={of.measure} value={of.score} />{ends(of.score_low, of.score_high)} of {most}, n = {of.n} prompts</>;
}

function Sentence({ row, page }) {
  const index = useContext(Index), { held_out: values, fluent } = page.answer, fluentTo = fluent && `; ${fluency(fluent)}`;
  if (page.recommended[0] === null) return <>Does not steer: no text at any factor {row.concept ? "has a judge score above 0" : "has one of its top logit-lens tokens"}{fluentTo}.</>;
  if (!values) return <>Its texts have no {scoreName(index.features)}{fluentTo}.</>;
  const of = heldOut(index, page), [good, fair] = of.measure === "judge_score" ? [of.score >= GOOD, of.score >= FAIR] : [of.gain >= GOOD, false];
  const how = !(of.gain_low > 0) ? "Not shown to steer" : good ? "Steers" : fair ? "Steers weakly" : "Hardly steers";
  return <>{how} towards {towards(row, page)}: <HeldOut page={page} />{fluentTo}.</>;
}

/** The same prompt, unsteered and steered. */
export function Pair({ columns, page: { answer, recommended, texts }, level = 2 }) {
  const Title = `h${level}`, index = useContext(Index), rows = objects({ columns, rows: texts });
  const of = (factor, same) => rows.find((row) => row.factor === factor && row.prompt === answer.text[0] && (!same || row.sample === answer.text[1]));
  const pair = [[of("0", true) ?? of("0"), "unsteered"], [of(recommended[0], true), `steered, factor ${recommended[0]}`]].filter(([row]) => row);
  return <div class="beside two pair">{pair.map(([row, title]) => <div class={row.factor === "0" ? "card" : "card chosen"}><Title>{title}</Title>
    <p class="text"><span class="quiet">{index.prompts[row.prompt]}{index.answers && "\n"}</span>{row.text || <em class="quiet"> (nothing)</em>}</p>
    {row.judge_score !== null && <p class="quiet">judge score <Num table="judge" column="judge_score" value={row.judge_score} /></p>}</div>)}</div>;
}

/** How sure the intervals are that settings ask for, in words: 95 %. */
export const levelOf = ({ confidence }) => `${Number((100 * confidence).toFixed(2))} %`;

/** A text as one word of a command line. */
export const word = (text) => (/^[\w .,;:?()/+-]*$/.test(text) ? `"${text}"` : `'${text.replaceAll("'", "'\\''")}'`);

export function Answer({ row, page, layer, feature }) {
  const index = useContext(Index), { answer, recommended } = page;
  if (!answer) return <p class="answer">No text was steered with this feature in {index.name}: what is known are its scores, below.</p>;
  const prompt = index.prompts[answer.text?.[0] ?? 0], { edit } = index.features;
  const how = edit === "addition" ? "" : edit === "ablation" ? " --edit ablation" : ` --edit ${edit} --factor ${recommended[0]}`;
  return <>
    <p class="answer"><Sentence row={row} page={page} /></p>
    {recommended[0] !== null && <p>Recommended: factor {recommended[0]}, chosen by {recommended[1]}. {splitOf(index.features)}. Their rule is “{index.features.rule}”. Brackets: {levelOf(index.features)} intervals over prompts. <From tables={["steering", "outcomes"]} /></p>}
    {answer.text && <Pair columns={index.features.texts} page={page} />}
    {recommended[0] !== null && prompt !== undefined && <Copy text={`saesteer steer ${index.name} ${layer}/${feature}${prompt.startsWith("-") ? `${how} -- ${word(prompt)}` : ` ${word(prompt)}${how}`}`} what="Command" />}
  </>;
}
