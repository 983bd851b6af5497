// Data in pieces. A page opened from disk may not fetch: there each is a script file, which calls saesteer.piece(name, value) once. A
// server sends them as JSON, which no other site's page can run.

/** What `saesteer serve` begins with, where it is behind this page: { max_tokens, temperature, seed, turns }; otherwise null. */
export const served = JSON.parse(document.documentElement.dataset.served ?? "null");
const GONE = "The server cannot be reached: start `saesteer serve` again.";
const pieces = new Map();
const loading = new Map();
window.saesteer = { piece: (name, value) => pieces.set(name, value) };

const byScript = (name) => new Promise((resolve, reject) => {
  const script = document.createElement("script");
  script.src = `data/${name}.js`;
  script.onload = () => { script.remove(); resolve(pieces.get(name)); pieces.delete(name); };
  script.onerror = () => {
    script.remove();
    reject(new Error(`The file data/${name}.js cannot be read: the report's folder has to be copied as a whole, or made again.`));
  };
  document.head.append(script);
});

/** What the server answers; where it refuses, or has ended, that is an error that says so. */
export async function ask(path, options) {
  const answer = await fetch(path, options).catch((error) => {
    throw error.name === "AbortError" ? error : new Error(GONE);
  });
  if (!answer.ok) throw new Error((await answer.json().catch(() => null))?.error?.message ?? `the server answered ${answer.status}`);
  return answer;
}

export const post = (path, body, signal) =>
  ask(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal });

/** The events of a stream, each a JSON value; where the server ends before all of them, that is an error. */
export async function* events(answer, areAll) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ;) {
    const { value, done } = await reader.read().catch((error) => {
      throw error.name === "AbortError" ? error : new Error(GONE);
    });
    const lines = (rest + (value ?? "")).split(/\r?\n/);
    rest = lines.pop();
    for (const line of lines) if (line.startsWith("data: ")) yield JSON.parse(line.slice(6));
    if (done && !areAll()) throw new Error(GONE);
    if (done) return;
  }
}

const byFetch = async (name) => (await ask(`data/${name}.json`)).json();

export function load(name) {
  if (!loading.has(name)) {
    const piece = served ? byFetch(name) : byScript(name);
    piece.catch(() => loading.delete(name));
    loading.set(name, piece);
  }
  return loading.get(name);
}

/** One entry of a list that lies in pieces which begin at `starts`. */
export async function entry(stem, starts, at) {
  let piece = starts.length - 1;
  while (starts[piece] > at) piece -= 1;
  return (await load(`${stem}/${piece}`))[at - starts[piece]];
}

function bytes(base64) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(base64);
  const text = atob(base64), made = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) made[i] = text.charCodeAt(i);
  return made;
}

/** Texts that come as one string with a line each, and where each line begins: to search it is faster than to search many strings. */
function lines(joined, n) {
  const begins = (text) => {
    const at = new Uint32Array(n + 1);
    for (let i = 0, from = 0; i < n; i++) at[i + 1] = from = (text.indexOf("\n", from) + 1) || text.length + 1;
    return at;
  };
  const lower = joined.toLowerCase(), at = begins(joined);
  return { shown: joined, at, lower: lower === joined ? joined : lower, lowerAt: lower.length === joined.length ? at : begins(lower) };
}

const WHOLE = ["feature", "order"]; // columns of whole numbers
const LETTER = /[\p{L}\p{N}]/u;
export const FITS = { anywhere: 3, prefix: 6, word: 9, whole: 12 };

/** The columns of the table of all features; each is loaded when it is first needed, texts chunk by chunk. */
export function openTable({ n, chunk, layers }) {
  const nChunks = Math.ceil(n / chunk), columns = new Map(), texts = new Map();
  const starts = [];
  layers.reduce((start, [, size]) => { starts.push(start); return start + size; }, 0);

  function numbers(name) {
    if (!columns.has(name)) columns.set(name, (async () => {
      const Kind = WHOLE.includes(name) ? Uint32Array : Float32Array, column = new Kind(n);
      await Promise.all(Array.from({ length: nChunks }, async (_, k) => column.set(new Kind(bytes(await load(`c/${name}/${k}`)).buffer), k * chunk)));
      return column;
    })());
    return columns.get(name);
  }

  /** A column of texts as it comes in, chunk by chunk: { chunks, done }; `changed` is called after each, whoever asked first. */
  function text(name, changed) {
    if (!texts.has(name)) {
      const column = { chunks: [], done: false, waiting: new Set() };
      texts.set(name, column);
      column.whole = (async () => {
        for (let k = 0; k < nChunks; k++) {
          column.chunks[k] = lines(await load(`c/${name}/${k}`), Math.min(chunk, n - k * chunk));
          column.done = k === nChunks - 1;
          column.waiting.forEach((one) => one());
        }
      })();
      column.whole.catch((error) => { column.fault = error; }).then(() => { column.waiting.forEach((one) => one()); column.waiting.clear(); });
    }
    const column = texts.get(name);
    if (!column.done) column.waiting.add(changed);
    return column;
  }

  /** The same once it is all there. */
  async function wholeText(name) {
    const column = text(name, () => {});
    await column.whole;
    return column;
  }

  /** A text of a column, null while it is not there yet. */
  function textOf({ chunks }, row) {
    const part = chunks[Math.floor(row / chunk)], i = row % chunk;
    return part ? part.shown.slice(part.at[i], part.at[i + 1] - 1) : null;
  }

  /** Marks the rows of a column whose text has the needle, in lower case, by where: FITS.whole, word, prefix or anywhere. The larger mark
   * stays; `more` is added to it. */
  function mark(column, needle, rows, more = 0) {
    column.chunks.forEach(({ lower: text, lowerAt: at }, k) => {
      for (let from = text.indexOf(needle), i = 0; from >= 0; from = text.indexOf(needle, from + 1)) {
        while (at[i + 1] <= from) i += 1;
        const to = from + needle.length, begins = from === at[i], ends = to === at[i + 1] - 1;
        const isPrefix = begins || !LETTER.test(text[from - 1]), isWord = isPrefix && (ends || !LETTER.test(text[to]));
        const fit = begins && ends ? FITS.whole : isWord ? FITS.word : isPrefix ? FITS.prefix : FITS.anywhere;
        rows[k * chunk + i] = Math.max(rows[k * chunk + i], fit + more);
      }
    });
    return rows;
  }

  const layerOf = (row) => {
    let at = starts.length - 1;
    while (starts[at] > row) at -= 1;
    return layers[at][0];
  };

  const range = (layer) => {
    const at = layers.findIndex(([one]) => one === layer);
    return at < 0 ? [0, 0] : [starts[at], starts[at] + layers[at][1]];
  };

  /** The row of a feature, -1 where there is none. */
  async function rowOf(layer, feature) {
    const column = await numbers("feature");
    let [low, high] = range(layer);
    const end = high;
    while (low < high) { const middle = (low + high) >> 1; if (column[middle] < feature) low = middle + 1; else high = middle; }
    return low < end && column[low] === feature ? low : -1;
  }

  return { n, numbers, text, wholeText, textOf, mark, layerOf, range, rowOf };
}

/** Rows in the order of a column's values, those without one last; equal ones by row. */
export function ordered(values, descending) {
  const n = values.length, order = new Uint32Array(n), ranks = new Uint32Array(n), bits = new Uint32Array(values.buffer);
  for (let row = 0; row < n; row++) {
    const rising = bits[row] >>> 31 ? ~bits[row] : bits[row] | 0x80000000; // floats in the order of their values
    ranks[row] = values[row] !== values[row] ? 0xffffffff : descending ? ~rising : rising;
  }
  if (n > 0x200000) { // rank and row no longer fit into one number
    for (let row = 0; row < n; row++) order[row] = row;
    return order.sort((a, b) => ranks[a] - ranks[b] || a - b);
  }
  const keys = new Float64Array(n);
  for (let row = 0; row < n; row++) keys[row] = ranks[row] * 0x200000 + row;
  keys.sort();
  for (let i = 0; i < n; i++) order[i] = keys[i] % 0x200000;
  return order;
}

/** The rows, in order, that lie in a range, have at least some values and are marked in every one of some lists. */
export function matching(order, [low, high], least, marks) {
  const rows = new Uint32Array(order.length), fits = new Uint8Array(order.length).fill(1, low, high);
  for (const [values, value] of least) for (let row = low; row < high; row++) if (!(values[row] >= value)) fits[row] = 0;
  for (const marked of marks) for (let row = low; row < high; row++) if (!marked[row]) fits[row] = 0;
  let n = 0;
  for (let i = 0; i < order.length; i++) if (fits[order[i]]) rows[n++] = order[i];
  return rows.subarray(0, n);
}
