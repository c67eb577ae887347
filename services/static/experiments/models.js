// Models: their versions, what the gate found, and who was champion when.

import { askJson, element } from "../api.js";
import { below, heading, percent, scored, table, time } from "./view.js";

export async function showModels({ main, signal }) {
  const { models } = await askJson("v1/models", { signal });
  const none = element("p", { className: "muted" }, "Nothing was promoted yet: open a run that was evaluated.");
  main.replaceChildren(heading("Models"), ...(models.length ? models.map(card) : [none]));
}

/** Return what the gate found of a version, check by check. */
export function gateOf(title, gate) {
  if (gate === null) return element("p", { className: "muted" }, `${title}: the gate was not asked, or is at work.`);
  const passed = gate.checks.every((check) => check.passed);
  const checks = gate.checks.map((check) => element("li", { className: check.passed ? "passed" : "failed" },
    element("strong", {}, `${check.passed ? "passed" : "failed"}: ${check.name}`), ` ${check.found}`));
  return element("div", { className: "stack gate" },
    element("p", {}, element("strong", {}, title), ` — the gate ${passed ? "lets it pass" : "holds it back"}, `, time(gate.time)),
    element("ul", { className: "checks" }, ...checks));
}

function card(model) {
  const rows = model.versions.map((one) => [
    `${model.name}/${one.version}${one.champion ? " ★" : ""}`, percent(one.score.value),
    `${percent(one.score.low)} to ${percent(one.score.high)}`, one.split, verdict(one.gate),
    element("a", { href: below("#/runs", one.run_id) }, one.run_id), time(one.created)]);
  const log = model.log.map((entry) => element("li", {}, time(entry.time), ` ${model.name}/${entry.version}`,
    entry.forced ? element("strong", {}, " forced") : "", `: ${entry.reason}`));
  const newest = model.versions[0];
  const made = element("section", { className: "card stack" },
    element("h3", {}, model.name, element("span", { className: "muted" },
      model.champion === null ? " no champion" : ` champion ${model.name}/${model.champion}`)),
    table(`Versions of ${model.name}`, ["Version", "Mean IoU, %", "95 % interval", "On", "Gate", "Run", "Packed"], rows));
  if (newest !== undefined) {
    made.append(element("p", { className: "muted" }, `${newest.score.rule}.`),
      element("details", {}, element("summary", {}, "What the gate found"),
        ...model.versions.map((one) => gateOf(`${model.name}/${one.version}, ${scored(one.score)}`, one.gate))));
  }
  if (model.damaged.length) made.append(element("p", {}, `Cannot be read: versions ${model.damaged.join(", ")}.`));
  made.append(element("details", { open: true }, element("summary", {}, "Who was champion when"), element("ol", { reversed: true, className: "log-of" }, ...log)));
  return made;
}

function verdict(gate) {
  if (gate === null) return "not asked";
  const failed = gate.checks.filter((check) => !check.passed).map((check) => check.name);
  return failed.length ? `failed: ${failed.join(", ")}` : "passed";
}
