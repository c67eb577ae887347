// Sweeps: their trials, the best first, and their figures.

import { askJson, element } from "../api.js";
import { below, every, heading, percent, picture, scored, shown, table } from "./view.js";

export async function showSweeps({ main, signal }) {
  const { sweeps } = await askJson("v1/sweeps", { signal });
  const rows = sweeps.map((one) => [
    element("a", { href: below("#/sweeps", one.sweep_id) }, one.sweep_id), one.method ?? "", String(one.trials), String(one.ended),
    one.finished ? "finished" : "not finished", one.best === null ? "–" : scored(one.best),
    one.best_run === null ? "" : element("a", { href: below("#/runs", one.best_run) }, one.best_run)]);
  const none = element("p", { className: "muted" }, "No sweep was begun yet: submit sweep under Jobs.");
  main.replaceChildren(heading("Sweeps"), sweeps.length
    ? table("Sweeps", ["Sweep", "Method", "Trials", "Runs ended", "State", "Best", "Best run"], rows) : none);
}

export async function showSweep({ main, signal, names: [sweepId] }) {
  let sweep = await askJson(below("v1/sweeps", sweepId), { signal });
  const trials = element("div");
  const draw = () => trials.replaceChildren(trialsOf(sweep));
  draw();
  const best = sweep.best === null ? [] : [element("p", { className: "headline" }, "Best: ", element("strong", {}, scored(sweep.best)),
    element("small", { className: "block" }, sweep.best.rule))];
  const figures = sweep.figures.map((figure) => element("figure", {}, element("figcaption", {}, figure),
    picture(below("v1/sweeps", sweepId, `/figures/${figure}`), figure, signal)));
  main.replaceChildren(heading(sweepId), ...best, trials, ...figures);
  if (!sweep.finished) {
    every(5000, signal, async () => {
      sweep = await askJson(below("v1/sweeps", sweepId), { signal });
      if (!trials.contains(document.activeElement)) draw();
      return !sweep.finished;
    });
  }
}

function trialsOf(sweep) {
  const names = [...new Set(sweep.table.flatMap((trial) => Object.keys(trial.point)))];
  const rows = sweep.table.map((trial) => [
    String(trial.number), percent(trial.score), ...names.map((name) => shown(trial.point[name] ?? null)),
    [...new Set(trial.outcomes.map((one) => one.status))].join(", ") || "not ended",
    element("span", {}, ...trial.outcomes.filter((one) => one.run_id).flatMap((one) => [element("a", { href: below("#/runs", one.run_id) }, one.run_id), " "]))]);
  return table("Trials", ["Trial", `${sweep.metric ?? "score"}, %`, ...names.map((name) => name.split(".").at(-1)), "State", "Runs"], rows);
}
