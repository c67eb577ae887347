// A run: curves that grow while it trains, scores, predictions, settings, and its way through the gate.

import { askJson, element } from "../api.js";
import { curves, ends, interval } from "./charts.js";
import { gateOf } from "./models.js";
import { follow } from "./jobs.js";
import { below, every, fail, heading, percent, picture, say, scored, shown, table, time } from "./view.js";

export async function showRun({ main, signal, names: [runId], who }) {
  const run = await askJson(below("v1/runs", runId), { signal });
  const state = element("span", { className: "badge" });
  const charts = element("div", { className: "charts" });
  const history = [...run.history];
  const draw = () => {
    const finished = run.finished || (history.at(-1)?.epoch ?? 0) >= run.of_epochs;
    state.textContent = finished ? "finished" : `epoch ${history.at(-1)?.epoch ?? 0} of ${run.of_epochs}`;
    charts.replaceChildren(...drawCurves(history, run.of_epochs));
  };
  draw();
  main.replaceChildren(
    element("div", { className: "row" }, heading(runId), state),
    element("p", { className: "muted" }, `${run.network}, ${run.data}, seed ${run.seed}, begun `, time(run.started)),
    ...headlines(run),
    element("section", { className: "stack", "aria-label": "Curves" }, charts,
      element("p", { className: "muted" }, run.rule ? `On validation while it trained: ${run.rule}.` : "")),
    ...pictures(run, signal),
    ...(await classes(run, signal)),
    promotion(run, who, signal),
    ...facts(run));
  if (!run.finished) {
    every(2000, signal, async () => {
      const after = history.at(-1)?.epoch ?? 0;
      const found = await askJson(below("v1/runs", runId, `/epochs?after=${after}`), { signal });
      if (found.epochs.length) {
        history.push(...found.epochs);
        draw();
        say(`Epoch ${history.at(-1).epoch} of ${run.of_epochs}, mean IoU ${percent(history.at(-1).scores.mean_iou)} per cent.`);
      }
      return !found.finished;
    });
  }
}

function headlines(run) {
  const found = Object.entries(run.scores).map(([name, score]) =>
    element("p", { className: "headline" }, `${name}: mean IoU `, element("strong", {}, scored(score)),
      element("small", { className: "block" }, `${score.num_images} images, ${score.rule}`)));
  if (found.length) return found;
  return [element("p", { className: "muted" }, run.finished
    ? `Not evaluated yet: submit evaluate with ${run.run_id} under Jobs.` : "Not evaluated yet: it trains.")];
}

function drawCurves(history, upTo) {
  if (!history.length) return [element("p", { className: "muted" }, "No epoch has ended yet.")];
  const ious = history.filter((one) => one.scores.mean_iou !== null).map((one) => [one.epoch, 100 * one.scores.mean_iou]);
  const best = ious.reduce((one, other) => (other[1] > one[1] ? other : one), [0, -1]);
  const losses = history.map((one) => [one.epoch, one.train_loss]);
  const frame = (title, chart) => element("figure", {}, element("figcaption", {}, title), chart);
  const label = `Mean IoU on validation by epoch, best ${best[1].toFixed(1)} % at epoch ${best[0]}`;
  const rows = history.map((one) => [
    one.epoch, one.train_loss.toFixed(4), percent(one.scores.mean_iou), percent(one.scores.pixel_accuracy),
    one.learning_rate.toExponential(2), one.images_per_s.toFixed(1)].map(String));
  return [
    frame("Mean IoU on validation, %", curves(label, [{ name: "mean IoU", points: ious, mark: best }], { upTo, unit: "" })),
    frame("Training loss", curves("Training loss by epoch", [{ name: "loss", points: losses }], { upTo })),
    element("details", { className: "wide" }, element("summary", {}, "Numbers by epoch"),
      table("Epochs", ["Epoch", "Loss", "Mean IoU", "Pixel accuracy", "Learning rate", "Images/s"], rows)),
  ];
}

/** Five predictions first; the other figures on demand, so that nothing is read that nobody looks at. */
function pictures(run, signal) {
  const predictions = run.figures.filter((figure) => figure.endsWith("/predictions.png"));
  const chosen = predictions.find((figure) => figure.startsWith("figures/")) ?? predictions[0];
  const at = (figure) => below("v1/runs", run.run_id, `/figures/${figure.split("/").map(encodeURIComponent).join("/")}`);
  const made = chosen === undefined ? [] : [
    element("section", { className: "stack" }, element("h3", {}, "Predictions"),
      picture(at(chosen), "Validation images, each with truth, prediction and errors", signal))];
  const rest = run.figures.filter((figure) => figure !== chosen);
  if (!rest.length) return made;
  const more = element("details", {}, element("summary", {}, `${rest.length} more figures`));
  more.addEventListener("toggle", () => {
    if (!more.open || more.childElementCount > 1) return;
    more.append(...rest.map((figure) => element("figure", {}, element("figcaption", {}, figure), picture(at(figure), figure, signal))));
  });
  return [...made, more];
}

async function classes(run, signal) {
  const name = "val" in run.scores ? "val" : Object.keys(run.scores)[0];
  if (name === undefined) return [];
  const report = await askJson(below("v1/runs", run.run_id, `/evaluations/${encodeURIComponent(name)}`), { signal });
  const [, to] = ends(report.classes.map((one) => one.iou), [1]);
  const rows = report.classes.map((one) => [
    one.name, percent(one.iou.value), interval(one.iou, 0, to), `${percent(one.iou.low)} to ${percent(one.iou.high)}`,
    percent(one.accuracy), percent(one.boundary_iou)]);
  return [element("section", { className: "stack" }, element("h3", {}, `By class, on ${report.subject.split}, %`),
    table("Scores by class", ["Class", "IoU", "", "95 % interval", "Accuracy", "Boundary IoU"], rows))];
}

function promotion(run, who, signal) {
  const verdicts = element("div", { className: "stack" });
  const draw = (packed) => verdicts.replaceChildren(...packed.map((one) =>
    gateOf(`${one.model}/${one.version}${one.champion ? ", champion" : ""}`, one.gate)));
  draw(run.packed);
  const section = element("section", { className: "stack card", id: "promotion" }, element("h3", {}, "Promotion"), verdicts);
  const evaluations = run.evaluations;
  if (!evaluations.length) {
    section.append(element("p", { className: "muted" }, "A run is promoted by what it was evaluated on."));
    return section;
  }
  if (!who.may_act) {
    section.append(element("p", { className: "muted" }, "This token may look, not promote."));
    return section;
  }
  const model = element("input", { type: "text", id: "model", required: true, pattern: "[a-z0-9][a-z0-9._\\-]*",
    value: run.packed[0]?.model ?? run.name, autocomplete: "off", spellcheck: false });
  const evaluation = element("select", { id: "on" }, ...evaluations.map((one) => element("option", {}, one)));
  const force = element("input", { type: "text", id: "force", placeholder: "only if worse than the champion: why", autocomplete: "off" });
  const button = element("button", { className: "first" }, "Promote");
  const log = element("div", { className: "stack" });
  const form = element("form", { className: "row filters" },
    field("Model", model), field("By evaluation", evaluation), field("Nevertheless, because", force), button);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    fail("");
    try {
      const body = { run_id: run.run_id, model: model.value, evaluation: evaluation.value, force: force.value || null };
      const job = await askJson("v1/promotions", { method: "POST", signal, body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });
      say("The gate is being asked.");
      const ended = await follow(job, log, signal);
      draw((await askJson(below("v1/runs", run.run_id), { signal })).packed);
      say(ended.status === "SUCCEEDED" ? `${run.run_id} is champion of ${model.value}.` : "It does not become champion; the log says why.");
    } catch (error) {
      if (error.name !== "AbortError") fail(error.message);
    }
    button.disabled = false;
  });
  section.append(form, log);
  return section;
}

function field(name, control) {
  return element("label", { className: "field" }, element("span", { className: "muted" }, name), control);
}

function facts(run) {
  const settings = Object.entries(run.settings).map(([name, value]) => [element("code", {}, name), element("code", {}, shown(value))]);
  const made = [element("details", {}, element("summary", {}, `${settings.length} settings`),
    table("Settings", ["Setting", "Value"], settings))];
  if (run.restarts.length) {
    const rows = run.restarts.map((one, index) => [
      String(one.restart ?? index + 1), time(one.time ?? null), one.cause ?? "", shown(one.resumed_at ?? ""), shown(one.steps_again ?? "–")]);
    made.unshift(element("details", {}, element("summary", {}, `${run.restarts.length} restarts`),
      table("Restarts", ["", "When", "Why", "Went on at step", "Steps done again"], rows)));
  }
  if (run.folds.length) {
    made.unshift(element("p", {}, "Folds: ", ...run.folds.flatMap((one) => [element("a", { href: below("#/runs", one) }, one), " "])));
  }
  return made;
}
