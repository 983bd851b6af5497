// What a feature's page begins with: one sentence, a good text beside the unsteered one, and the command that steers.

import { useContext } from "preact/hooks";
import { Copy, From, Index, Num, objects, show, visible } from "./parts.jsx";

const GOOD = 1, FAIR = 0.5; // judge scores, of 2, from which a feature steers, and steers weakly; GOOD of net success, too: a token a text
const quoted = (token) => `“${visible(token).trim()}”`;
const list = (names) => names.join(", ");

/** Where a feature steers to, in words: its label, or its first top logit-lens tokens. */
function towards(row) {
  if (row.concept) return row.concept;
  return `its top logit-lens tokens (${list(row.top_logit_lens_tokens.slice(0, 3).map(quoted))})`;
}

function fluency([factor, isLargest]) {
  if (factor === null) return "no factor leaves the texts fluent";
  return isLargest ? `texts stay fluent at every factor, up to ${factor}` : `texts stay fluent up to factor ${factor}`;
}

function Sentence({ row, page: { answer, recommended } }) {
  const { at, fluent, unsteered } = answer, fluentTo = fluent && `; ${fluency(fluent)}`;
  if (!at) return <>Does not steer: no text at any factor {row.concept ? "has a judge score above 0" : "has one of its top logit-lens tokens"}{fluentTo}.</>;
  const num = (column, value) => <Num table="steering" column={column} value={value} />;
  if (at.judge_score !== null) {
    const how = at.judge_score >= GOOD ? "Steers" : at.judge_score >= FAIR ? "Steers weakly" : "Hardly steers";
    return <>{how} towards {towards(row)}: judge score {num("judge_score", at.judge_score)} of 2 at factor {recommended[0]}{fluentTo}.</>;
  }
  const before = (name, f = (x) => x) => (typeof unsteered?.[name] === "number" ? ` (unsteered ${show(f(unsteered[name]))})` : "");
  const perplexity = at.log_perplexity !== null && <>, perplexity {num("log_perplexity", Math.exp(at.log_perplexity))}{before("log_perplexity", Math.exp)}</>;
  const net = at.gen_success_20 - (unsteered?.gen_success_20 ?? 0), success = <>GenSuccess@20 {num("gen_success_20", at.gen_success_20)}{before("gen_success_20")}</>;
  return <>{net >= GOOD ? "Steers" : "Hardly steers"} towards {towards(row)}: {typeof unsteered?.gen_success_20 === "number" && <>net success {show(net)}, </>}{success} at factor {recommended[0]}{perplexity}{fluentTo}.</>;
}

/** Scores on the half of the prompts that took no part in choosing the factor. */
function HeldOut({ outcomes }) {
  const index = useContext(Index), row = objects({ columns: index.features.outcomes, rows: outcomes ?? [] }).find((one) => one.rule === index.features.rule);
  if (!row || (row.judge_score === null && row.gen_success_20 === null)) return null;
  const shown = row.judge_score !== null ? [["judge_score", "judge score"]] : [["net_gen_success_20", "net success"], ["gen_success_20", "GenSuccess@20"]].filter(([column]) => row[column] !== null);
  const factors = [...new Set(row.factors.map((one) => one ?? "none"))];
  return <> Held out: {shown.map(([column, title]) => <>{title} <Num table="outcomes" column={column} value={row[column]} />, </>)}each half of the prompts at the factor chosen on the other ({factors.join(" and ")}).</>;
}

/** The same prompt, unsteered and steered. */
function Pair({ columns, page: { answer, recommended, texts } }) {
  const index = useContext(Index), rows = objects({ columns, rows: texts });
  const of = (factor, same) => rows.find((row) => row.factor === factor && row.prompt === answer.text[0] && (!same || row.sample === answer.text[1]));
  const pair = [[of("0", true) ?? of("0"), "unsteered"], [of(recommended[0], true), `steered, factor ${recommended[0]}`]].filter(([row]) => row);
  return <div class="beside two pair">{pair.map(([row, title]) => <div class={row.factor === "0" ? "card" : "card chosen"}><h2>{title}</h2>
    <p class="text"><span class="quiet">{index.prompts[row.prompt]}</span>{row.text || <em class="quiet"> (nothing)</em>}</p>
    {row.judge_score !== null && <p class="quiet">judge score <Num table="judge" column="judge_score" value={row.judge_score} /></p>}</div>)}</div>;
}

/** A text as one word of a command line. */
export const word = (text) => (/^[\w .,;:?()/+-]*$/.test(text) ? `"${text}"` : `'${text.replaceAll("'", "'\\''")}'`);

export function Answer({ row, page, layer, feature }) {
  const index = useContext(Index), { answer, recommended } = page;
  if (!answer) return <p class="answer">No text was steered with this feature in {index.name}: what is known are its scores, below.</p>;
  const prompt = index.prompts[answer.text?.[0] ?? 0];
  return <>
    <p class="answer"><Sentence row={row} page={page} /></p>
    {answer.at && <p>The factor was chosen by {recommended[1]}.<HeldOut outcomes={page.outcomes} /> <From tables={["steering", "outcomes"]} /></p>}
    {answer.text && <Pair columns={index.features.texts} page={page} />}
    {answer.at && prompt !== undefined && <Copy text={`saesteer steer ${index.name} ${layer}/${feature} ${word(prompt)}`} what="Command" />}
  </>;
}
