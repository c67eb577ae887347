// Runs beside each other: the settings in which they differ, and the paired difference of what they score.

import { askJson, element } from "../api.js";
import { ends, interval } from "./charts.js";
import { below, heading, percent, points, shown, table } from "./view.js";

export async function showComparison({ main, signal, query }) {
  const runs = query.getAll("run");
  const asked = new URLSearchParams(runs.map((one) => ["run", one]));
  const differences = await askJson(`v1/differences?${asked}`, { signal });
  const names = runs.map((one) => element("a", { href: below("#/runs", one) }, one));
  const rows = differences.settings.map(({ name, values }) =>
    [element("code", {}, name), ...values.map((value) => element("code", {}, shown(value)))]);
  main.replaceChildren(
    heading("Comparison"),
    element("section", { className: "stack" },
      element("h3", {}, "Settings that differ"),
      table("Settings that differ", ["Setting", ...names.map((one) => element("th", { scope: "col" }, one))], rows),
      element("p", { className: "muted" }, `${differences.same} settings are the same.`)));
  try {
    asked.set("evaluation", query.get("evaluation") ?? "val");
    const found = await askJson(`v1/comparisons?${asked}`, { signal });
    main.append(...paired(found));
  } catch (error) {
    if (error.name === "AbortError") throw error;
    main.append(element("p", { className: "muted" }, `No scores to compare: ${error.message}`));
  }
}

function paired(found) {
  const arms = found.arms.map((arm) => [
    arm.label, percent(arm.mean_iou.value), `${percent(arm.mean_iou.low)} to ${percent(arm.mean_iou.high)}`, String(arm.runs.length)]);
  const made = [element("section", { className: "stack" }, element("h3", {}, "Mean IoU, %"),
    table("Mean IoU", ["Runs", "Mean IoU", "95 % interval", "Seeds"], arms))];
  for (const difference of found.differences) {
    const all = [["mean IoU", difference.mean_iou], ...found.classes.map((name, index) => [name, difference.class_iou[index]])];
    const scale = ends(all.map(([, one]) => one), [0]);
    const rows = all.map(([name, one]) => {
      const sure = one.low !== null && (one.low > 0 || one.high < 0);
      return [sure ? element("strong", {}, name) : name, points(one.value), interval(one, ...scale, [0]), `${points(one.low)} to ${points(one.high)}`];
    });
    made.push(element("section", { className: "stack" }, element("h3", {}, difference.label),
      table(difference.label, ["In percentage points", "Difference", "", "95 % interval"], rows),
      element("p", { className: "muted" }, `Paired over the same ${found.num_images} images; bold where the interval excludes 0. ${found.rule}.`)));
  }
  return made;
}
