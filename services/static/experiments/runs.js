// The leaderboard.

import { askJson, element } from "../api.js";
import { ends, interval } from "./charts.js";
import { below, every, fail, heading, percent, say, scored, time } from "./view.js";

const COLUMNS = [
  ["name", "Run"],
  ["score", "Mean IoU, %"],
  ["validation", "In training, %"],
  ["epochs", "Epochs"],
  ["started", "Begun"],
];
const PAGE = 25;
const asked = { sort: "score", ascending: false, search: "", data: "", finished: "", evaluation: "val", offset: 0 };
const chosen = new Set();

export async function showRuns({ main, signal }) {
  const frame = element("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": "Runs" });
  const under = element("div", { className: "row" });
  const rules = element("div", { className: "stack muted" });
  const controls = element("form", { className: "row filters", role: "search" });
  const compare = element("button", { type: "button", className: "first" }, "Compare");
  let found = await read(signal);

  let newest = 0;
  const again = async () => {
    const number = ++newest;
    const answer = await read(signal);
    // Who asked first may be answered last.
    if (number !== newest) return;
    found = answer;
    draw();
  };
  const ask = async (changes) => {
    Object.assign(asked, { offset: 0 }, changes);
    try {
      await again();
      fail("");
    } catch (error) {
      if (error.name !== "AbortError") fail(error.message);
    }
  };
  const choose = () => {
    compare.disabled = chosen.size < 2;
    compare.textContent = chosen.size < 2 ? "Compare: choose two runs" : `Compare ${chosen.size} runs`;
  };
  const draw = () => {
    frame.replaceChildren(board(found, ask, choose));
    under.replaceChildren(...pages(found, ask));
    rules.replaceChildren(...notes(found));
    choose();
  };
  compare.addEventListener("click", () => {
    location.hash = `#/compare?${new URLSearchParams([["evaluation", asked.evaluation], ...[...chosen].map((one) => ["run", one])])}`;
  });
  fill(controls, found, ask);
  main.replaceChildren(
    element("div", { className: "row spread" }, heading("Leaderboard"), compare), controls, frame, under, rules);
  draw();
  every(10_000, signal, async () => {
    // Who is about to choose something keeps the place.
    if (!frame.contains(document.activeElement) || document.activeElement === frame) await again();
  });
}

function read(signal) {
  const query = Object.entries({ ...asked, limit: PAGE }).filter(([, value]) => value !== "");
  return askJson(`v1/runs?${new URLSearchParams(query)}`, { signal });
}

function fill(controls, found, ask) {
  const search = element("input", { type: "search", id: "search", value: asked.search, placeholder: "name or network" });
  const data = select("data", "all data", found.data, asked.data);
  const finished = select("finished", "finished or not", [["true", "finished"], ["false", "not finished"]], asked.finished);
  const evaluation = select("evaluation", null, found.evaluations.length ? found.evaluations : ["val"], asked.evaluation);
  controls.append(
    labelled("Search", search), labelled("Data", data), labelled("State", finished), labelled("Evaluation", evaluation));
  controls.addEventListener("submit", (event) => event.preventDefault());
  let waiting = 0;
  controls.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(async () => {
      await ask({ search: search.value, data: data.value, finished: finished.value, evaluation: evaluation.value });
      say("The leaderboard changed.");
    }, 250);
  });
}

function labelled(name, control) {
  return element("label", { className: "field" }, element("span", { className: "muted" }, name), control);
}

function select(id, all, options, value) {
  const pairs = options.map((one) => (Array.isArray(one) ? one : [one, one]));
  const every = all === null ? pairs : [["", all], ...pairs];
  const made = element("select", { id }, ...every.map(([key, text]) => element("option", { value: key }, text)));
  made.value = value;
  return made;
}

function board(found, ask, choose) {
  const heads = COLUMNS.map(([key, title]) => {
    const sorted = asked.sort === key;
    const arrow = sorted ? (asked.ascending ? " ▲" : " ▼") : "";
    const button = element("button", { type: "button", className: "link sort" }, title, element("span", { "aria-hidden": "true" }, arrow));
    button.addEventListener("click", async () => {
      await ask({ sort: key, ascending: sorted ? !asked.ascending : key === "name" });
      document.querySelector('th[aria-sort] button')?.focus();
      say(`Sorted by ${title}, ${asked.ascending ? "lowest" : "highest"} first.`);
    });
    const head = element("th", { scope: "col" }, button);
    if (sorted) head.setAttribute("aria-sort", asked.ascending ? "ascending" : "descending");
    return head;
  });
  const scale = ends(found.runs.map((run) => run.score).filter(Boolean));
  const rows = found.runs.map((run) => row(run, scale, choose));
  const none = element("tr", {}, element("td", { colSpan: 6, className: "muted" },
    "No run fits. Submit one under Jobs, or type python jobs/train_fcn8s.py streets."));
  return element("table", { className: "board" },
    element("thead", {}, element("tr", {}, element("td", {}, element("span", { className: "unseen" }, "Choose")), ...heads)),
    element("tbody", {}, ...(rows.length ? rows : [none])));
}

function row(run, scale, choose) {
  const box = element("input", { type: "checkbox", checked: chosen.has(run.run_id), "aria-label": `Choose ${run.run_id}` });
  box.addEventListener("change", () => {
    if (box.checked) chosen.add(run.run_id);
    else chosen.delete(run.run_id);
    choose();
  });
  const name = element("th", { scope: "row" },
    element("a", { href: below("#/runs", run.run_id) }, run.run_id),
    element("small", { className: "block" }, `${run.network}, ${run.data}, seed ${run.seed}`));
  const score = run.score === null
    ? element("td", { className: "muted" }, "not evaluated")
    : element("td", { title: `${scored(run.score)}; ${run.score.rule}` },
      element("span", { className: "score" }, element("strong", {}, percent(run.score.value)),
        interval(run.score, ...scale),
        element("small", {}, `${percent(run.score.low)}–${percent(run.score.high)}`)));
  const progress = element("td", {}, `${run.epochs}/${run.of_epochs}`,
    ...(run.finished ? [] : [element("progress", { max: run.of_epochs, value: run.epochs, "aria-label": "epochs" })]));
  return element("tr", {}, element("td", {}, box), name, score,
    element("td", {}, percent(run.validation)), progress, element("td", {}, time(run.started)));
}

function pages(found, ask) {
  const last = asked.offset + found.runs.length;
  const back = element("button", { type: "button", disabled: asked.offset === 0 }, "Previous");
  const on = element("button", { type: "button", disabled: last >= found.total }, "Next");
  back.addEventListener("click", () => ask({ offset: Math.max(0, asked.offset - PAGE) }));
  on.addEventListener("click", () => ask({ offset: asked.offset + PAGE }));
  const which = element("span", { className: "muted" }, found.total ? `${asked.offset + 1} to ${last} of ${found.total} runs` : "");
  return found.total > PAGE ? [back, on, which] : [which];
}

function notes(found) {
  const scores = found.runs.map((run) => run.score).filter(Boolean);
  const rules = [...new Set(scores.map((score) => score.rule))];
  const data = new Set(scores.map((score) => score.data));
  const made = rules.map((rule) => element("p", {}, `Mean IoU with 95 % intervals over images: ${rule}.`));
  if (data.size > 1) made.push(element("p", {}, `These scores are of ${data.size} different sets of images: compare only runs of the same.`));
  if (found.damaged.length) made.push(element("p", {}, `Cannot be read: ${found.damaged.join(", ")}.`));
  return made;
}
