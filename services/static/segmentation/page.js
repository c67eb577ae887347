// The page: takes a picture, asks for its classes by one or two versions, and shows them.

import { ask, askJson, element, Failure, forgetToken, hasToken, save } from "../api.js";
import { markClass, namesOf, percent, showClasses, swatch } from "./classes.js";
import { startFields } from "./fields.js";
import { Result } from "./result.js";
import { cursor, fade, resize, show, showPhoto, watchCursor } from "./stage.js";

const ids = ["model", "forget", "file", "sample", "error", "empty", "stage", "busy", "cancel", "under", "readout",
  "spoken", "status", "panel", "versions", "version", "other", "opacity", "opacity-value", "differences",
  "differences-row", "agreement", "all", "none", "downloads", "about"];
const parts = Object.fromEntries(ids.map((id) => [id, document.getElementById(id)]));
const hidden = new Set();
let models = [];
/** The picture: its file, address, and results by what was asked for. */
let picture = null;
/** One result, or two that are compared. */
let results = [];
let differences = null;
let asking = new AbortController();

async function start() {
  await told(async () => {
    await readModels();
    await startFields();
  });
}

async function readModels() {
  ({ models } = await askJson("v1/models"));
  parts.forget.hidden = !hasToken();
  const [champion] = models;
  parts.model.textContent = `${champion.name}, ${champion.network}: mean IoU ${percent(champion.mean_iou)} on ${champion.split}`;
  const chosen = parts.version.value;
  // The first is asked for without a number: whatever is champion by then answers.
  const options = models.map(({ version }, place) =>
    element("option", { value: place ? version : "" }, place ? `${version}` : `${version} (champion)`));
  parts.version.replaceChildren(...options);
  parts.version.value = options.some(({ value }) => value === chosen) ? chosen : "";
  offerOthers();
}

/** Offer the versions to compare with: all but the one that is shown. */
function offerOthers() {
  const chosen = parts.other.value;
  const others = [...parts.version.options].filter(({ value }) => value !== parts.version.value);
  const none = element("option", { value: "none" }, others.length ? "nothing" : "no other is served");
  parts.other.replaceChildren(none, ...others.map((option) => option.cloneNode(true)));
  parts.other.value = others.some(({ value }) => value === chosen) ? chosen : "none";
  parts.other.disabled = others.length === 0;
}

async function take(file) {
  if (picture) URL.revokeObjectURL(picture.url);
  const mine = { file, url: URL.createObjectURL(file), found: new Map() };
  picture = mine;
  results = [];
  parts.empty.hidden = true;
  parts.stage.hidden = false;
  parts.under.hidden = true;
  parts.panel.hidden = true;
  parts.status.textContent = "";
  const isPicture = showPhoto(mine.url, file.name);
  await segment();
  if (mine !== picture || results.length || await isPicture) return;
  // Neither the service nor the browser can do anything with it.
  parts.stage.hidden = true;
  parts.empty.hidden = false;
}

/** Ask for what is not yet known of the picture, and show it. A request that is under way is given up. */
async function segment() {
  if (!picture) return;
  asking.abort();
  asking = new AbortController();
  const { signal } = asking;
  const mine = picture;
  const wanted = [parts.version.value, parts.other.value].filter((version) => version !== "none");
  parts.busy.hidden = false;
  parts.status.textContent = "The network is at work…";
  const isDone = await told(async () => {
    const found = await Promise.all(wanted.map((version) => resultOf(mine, version, signal)));
    if (signal.aborted) return;
    results = found;
    showResults();
  });
  if (signal.aborted) return;
  parts.busy.hidden = true;
  if (!isDone) parts.status.textContent = "";
}

async function resultOf(mine, version, signal) {
  if (!mine.found.has(version)) {
    const begin = performance.now();
    const answer = await ask(place(version), {
      method: "POST", body: mine.file, signal,
      headers: { Accept: "application/x-npz", "Content-Type": "application/octet-stream" },
    });
    const number = Number(answer.headers.get("Model-Version"));
    if (!models.some((model) => model.version === number)) await readModels();
    const model = models.find((one) => one.version === number);
    if (!model) throw new Failure(`Version ${number} answered, and is no longer served: ask again.`);
    const result = new Result(await answer.arrayBuffer(), model);
    result.seconds = (performance.now() - begin) / 1000;
    mine.found.set(version, result);
  }
  return mine.found.get(version);
}

const place = (version) => (version === "" ? "v1/segment" : `v1/segment?version=${version}`);

function showResults() {
  const [first, second] = results;
  resize(first.width, first.height);
  differences = second ? first.differences(second) : null;
  parts["differences-row"].hidden = !second;
  if (second) {
    const same = 1 - differences.reduce((sum, one) => sum + one, 0) / differences.length;
    parts.agreement.textContent = `(${percent(same)} of the pixels agree)`;
  }
  parts.under.hidden = false;
  parts.panel.hidden = false;
  showTable();
  paint();
  const number = namesOf(results).filter((name) => results.some((result) => result.of(name)?.share > 0)).length;
  const times = results.map((result) => `version ${result.model.version} in ${result.seconds.toFixed(2)} s`).join(", ");
  parts.status.textContent = `${first.width} x ${first.height} pixels, ${number} classes, by ${times}.`;
  describeModel(first.model);
  const at = cursor();
  if (at) read(at.x, at.y, false);
}

function showTable() {
  showClasses(results, hidden, (name, isShown) => {
    if (isShown) hidden.delete(name);
    else hidden.add(name);
    paint();
  });
}

function paint() {
  const only = parts.differences.checked ? differences : null;
  ["first", "second"].forEach((id, index) => results[index]?.paint(document.getElementById(id), hidden, only));
  show(results.map((result) => `version ${result.model.version}`), parts.opacity.value / 100);
}

function read(x, y, byKeyboard) {
  if (results.length === 0) return;
  const found = results.map((result) => result.at(x, y));
  const words = found.map(({ name, confidence }, index) =>
    `${results.length > 1 ? `version ${results[index].model.version}: ` : ""}${name}, ${percent(confidence)}`);
  const said = found.flatMap(({ colour }, index) => [swatch(colour), words[index]]);
  parts.readout.replaceChildren(...said, element("span", { className: "muted" }, `  at ${x}, ${y}`));
  // A mouse would have a screen reader speak without end.
  if (byKeyboard) parts.spoken.textContent = `${words.join("; ")} at ${x}, ${y}`;
  markClass(found[0].name);
}

function describeModel(model) {
  const [low, high] = model.mean_iou_interval;
  const facts = {
    Model: `${model.name}, version ${model.version}${model.champion ? ", champion" : ""}`,
    Network: model.network,
    "Mean IoU": `${percent(model.mean_iou)}${low === null ? "" : ` (95 %: ${percent(low)} to ${percent(high)})`} on ${model.split}`,
    Rule: model.rule,
    Inference: model.inference,
    Preprocessing: model.preprocessing,
    Weights: element("code", {}, model.weights),
  };
  parts.about.replaceChildren(...Object.entries(facts).flatMap(([name, fact]) =>
    [element("dt", {}, name), element("dd", {}, fact)]));
}

/** Do some work; what goes wrong is one line on the page. Return whether it went well. */
async function told(work) {
  parts.error.hidden = true;
  try {
    await work();
    return true;
  } catch (error) {
    if (error.name !== "AbortError") {
      parts.error.textContent = error.message;
      parts.error.hidden = false;
    }
    return false;
  } finally {
    parts.forget.hidden = !hasToken();
  }
}

function takeFrom(transfer) {
  const [file] = transfer.files;
  if (file) take(file);
  return Boolean(file);
}

function hideAll(names) {
  hidden.clear();
  for (const name of names) hidden.add(name);
  showTable();
  paint();
}

parts.file.addEventListener("change", () => {
  takeFrom(parts.file);
  // So that the same file can be chosen again.
  parts.file.value = "";
});
parts.sample.addEventListener("click", () => told(async () => {
  if (models.length === 0) await readModels();
  const version = parts.version.value && `?version=${parts.version.value}`;
  const answer = await ask(`v1/models/${encodeURIComponent(models[0].name)}/example${version}`);
  await take(new File([await answer.blob()], "example.png", { type: "image/png" }));
}));
document.addEventListener("paste", (event) => takeFrom(event.clipboardData));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dropping");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  told(() => {
    if (!takeFrom(event.dataTransfer)) throw new Failure("What was dropped is no file: save the image, and drop that.");
  });
});
parts.cancel.addEventListener("click", () => {
  asking.abort();
  parts.busy.hidden = true;
  parts.status.textContent = "Cancelled.";
});
parts.version.addEventListener("change", () => {
  offerOthers();
  segment();
});
parts.other.addEventListener("change", segment);
parts.opacity.addEventListener("input", () => {
  parts["opacity-value"].textContent = `${parts.opacity.value} %`;
  fade(parts.opacity.value / 100);
});
parts.differences.addEventListener("change", paint);
parts.all.addEventListener("click", () => hideAll([]));
parts.none.addEventListener("click", () => hideAll(namesOf(results)));
parts.downloads.addEventListener("click", ({ target }) => {
  const { accept, ending } = target.dataset;
  if (!accept || results.length === 0) return;
  const name = picture.file.name.replace(/\.[^.]+$/, "") + ending;
  const number = results[0].model.version;
  told(() => save(place(number), { method: "POST", body: picture.file, headers: {
    Accept: accept, "Content-Type": "application/octet-stream" } }, name));
});
parts.forget.addEventListener("click", () => {
  forgetToken();
  parts.forget.hidden = true;
});
watchCursor(read);
start();
