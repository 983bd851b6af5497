
"use strict";
// Texts of the sheet are shown as text only (textContent): none of them can become markup.
const element = (id) => document.getElementById(id);
const { experiment, questions, texts } = JSON.parse(element("sheet").textContent);
const options = [...element("options").children];
const place = `saesteer ratings ${experiment} ${texts.map(([id]) => id).join("")}`;
let kept = true;
let answers = {};
try {
  answers = JSON.parse(localStorage.getItem(place) ?? "{}");
} catch {
  kept = false;
}

const isRated = ([id]) => questions.every(({ aspect }) => aspect in (answers[id] ?? {}));
let at = texts.findIndex((text) => !isRated(text)); // the text that is shown; texts.length behind the last one
if (at < 0) at = texts.length;
let asking = 0; // which question about it

function show() {
  const over = at === texts.length;
  const warning = kept ? "" : " This browser does not keep answers: save them before you close the page.";
  element("progress").textContent =
    `${over ? "End" : `Text ${at + 1} of ${texts.length}, question ${asking + 1} of ${questions.length}`}; ${texts.filter(isRated).length} rated.${warning}`;
  element("text").hidden = element("question").hidden = over;
  element("end").hidden = !over;
  if (over) {
    element("save").focus();
    return;
  }
  const [id, concept, prompt, text] = texts[at];
  element("concept").textContent = concept;
  element("prompt").textContent = prompt;
  element("continuation").textContent = text.trim() ? text : "(nothing)";
  const { aspect, question, options: meanings } = questions[asking];
  element("asked").textContent = question;
  options.forEach((button, rating) => {
    button.textContent = `${rating + 1}  ${meanings[rating]}`;
    button.setAttribute("aria-pressed", String(answers[id]?.[aspect] === rating));
  });
}

function answer(rating) {
  if (at === texts.length) return;
  const [id] = texts[at];
  answers[id] = { ...answers[id], [questions[asking].aspect]: rating };
  try {
    localStorage.setItem(place, JSON.stringify(answers));
  } catch {
    kept = false;
  }
  if (asking + 1 === questions.length) return void skip();
  asking += 1;
  show();
}

function skip() {
  if (at < texts.length) at += 1;
  asking = 0;
  show();
}

function back() {
  if (asking > 0) asking -= 1;
  else if (at > 0) [at, asking] = [at - 1, questions.length - 1];
  show();
}

function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify({ form: "saesteer ratings 1", experiment, answers })], { type: "application/json" }));
  link.download = `ratings-${experiment}.json`;
  link.click();
}

options.forEach((button, rating) => button.addEventListener("click", () => answer(rating)));
element("back").addEventListener("click", back);
element("skip").addEventListener("click", skip);
element("save").addEventListener("click", save);
addEventListener("storage", (event) => {
  if (event.key !== place) return;
  answers = JSON.parse(event.newValue ?? "{}");
  show();
});
document.addEventListener("keydown", (event) => {
  if (event.repeat && event.key === "Enter") event.preventDefault();
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const keys = { 1: () => answer(0), 2: () => answer(1), 3: () => answer(2), ArrowLeft: back, ArrowRight: skip };
  if (!(event.key in keys)) return;
  event.preventDefault();
  keys[event.key]();
});
show();
