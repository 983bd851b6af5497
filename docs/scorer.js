// How the site's search orders what it finds: first pages whose own title has every word that was typed. The numbers are Sphinx's.
const typed = (new URLSearchParams(location.search).get("q") ?? "").toLowerCase().split(/\s+/).filter(Boolean);
var Scorer = {
  score: ([, title, anchor, , score]) => score + (anchor === "" && typed.every((word) => title.toLowerCase().includes(word)) ? 1000 : 0),
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
