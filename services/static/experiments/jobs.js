// Jobs of the cluster: what runs, starting and stopping it, and its log as it is printed.

import { askJson, element } from "../api.js";
import { below, every, fail, heading, lasted, say, table, time, words } from "./view.js";

const ENDED = ["STOPPED", "SUCCEEDED", "FAILED"];
const EXAMPLES = {
  train_fcn8s: "streets --workers 2 --optim.epochs 4",
  evaluate: "RUN --split val",
  promote: "RUN --model streets",
  sweep: "streets --trials 4",
};
const send = (path, body, signal) =>
  askJson(path, { method: "POST", signal, body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });

export async function showJobs({ main, signal, who }) {
  const [{ jobs }, { commands }] = await Promise.all([askJson("v1/jobs", { signal }), askJson("v1/commands", { signal })]);
  const list = element("div");
  const draw = (found) => list.replaceChildren(found.length ? listed(found) : element("p", { className: "muted" }, "Nothing was submitted yet."));
  draw(jobs);
  const form = who.may_act ? submission(commands, signal) : element("p", { className: "muted" }, "This token may look, not submit.");
  main.replaceChildren(heading("Jobs"), form, list);
  every(5000, signal, async () => {
    const found = await askJson("v1/jobs", { signal });
    if (!list.contains(document.activeElement)) draw(found.jobs);
  });
}

export async function showJob({ main, signal, names: [jobId], who }) {
  const job = await askJson(below("v1/jobs", jobId), { signal });
  const log = element("div", { className: "stack" });
  const stop = element("button", { type: "button", hidden: !who.may_act || ENDED.includes(job.status) }, "Stop");
  stop.addEventListener("click", async () => {
    stop.disabled = true;
    try {
      await send(below("v1/jobs", jobId, "/stop"), {}, signal);
      say("The job was asked to stop.");
    } catch (error) {
      if (error.name !== "AbortError") fail(error.message);
    }
    stop.disabled = false;
  });
  main.replaceChildren(
    element("div", { className: "row spread" }, heading(`${job.command} `, element("span", { className: "muted" }, jobId)), stop),
    element("p", {}, element("code", {}, commandLine(job))),
    element("p", { className: "muted" }, job.owner === null ? "submitted elsewhere, " : `submitted by ${job.owner}, `, time(job.started)),
    log);
  // The view is there; the log comes as it is printed.
  follow(job, log, signal).then(() => (stop.hidden = true)).catch((error) => {
    if (error.name !== "AbortError") fail(error.message);
  });
}

/** Show the log of a job in an element until the job ends, and return the job as it is then. */
export async function follow(job, place, signal) {
  const state = element("span", { className: `badge ${job.status}` }, job.status.toLowerCase());
  const said = element("span", { className: "muted" });
  const run = element("span");
  const log = element("pre", { className: "log", tabIndex: 0, role: "log", "aria-label": `Log of ${job.job_id}`, "aria-live": "off" });
  place.replaceChildren(element("div", { className: "row" }, state, run, said), log);
  let next = 0;
  let now = job;
  const look = async () => {
    const part = await askJson(below("v1/jobs", job.job_id, `/log?offset=${next}`), { signal });
    const atEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 8;
    if (part.offset > next) log.append(`… ${part.offset - next} bytes are left out …\n`);
    if (part.next < next) log.replaceChildren();
    log.append(part.text);
    if (atEnd) log.scrollTop = log.scrollHeight;
    if (part.job.status !== now.status) say(`${job.command} ${part.job.status.toLowerCase()}.`);
    next = part.next;
    now = part.job;
    state.textContent = now.status.toLowerCase();
    state.className = `badge ${now.status}`;
    said.textContent = `${lasted(now.started, now.ended)}${ENDED.includes(now.status) && now.status !== "SUCCEEDED" ? `: ${now.message}` : ""}`;
    if (now.run_id !== null && !run.childElementCount) {
      run.append(element("a", { href: below("#/runs", now.run_id) }, `run ${now.run_id}`));
    }
    return !ENDED.includes(now.status);
  };
  // Once more after the end: what was printed last may come late.
  if (await look()) await every(1500, signal, look);
  if (!signal.aborted) await look();
  return now;
}

function listed(jobs) {
  const rows = jobs.map((job) => [
    element("span", {}, element("a", { href: below("#/jobs", job.job_id) }, job.command),
      element("small", { className: "block" }, element("code", {}, job.arguments.join(" ")))),
    element("span", { className: `badge ${job.status}`, title: job.message }, job.status.toLowerCase()),
    job.run_id === null ? "" : element("a", { href: below("#/runs", job.run_id) }, job.run_id),
    job.owner ?? "", time(job.started), lasted(job.started, job.ended)]);
  return table("Jobs", ["Command", "State", "Run", "By", "Begun", "Took"], rows);
}

function submission(commands, signal) {
  const command = element("select", { id: "command" }, ...commands.map((one) =>
    element("option", { value: one.name }, one.name)));
  command.value = commands.some((one) => one.name === "train_fcn8s") ? "train_fcn8s" : command.value;
  const typed = element("input", { type: "text", id: "arguments", className: "long", autocomplete: "off", spellcheck: false });
  const note = element("small", { className: "muted", id: "note" });
  const button = element("button", { className: "first" }, "Submit");
  typed.setAttribute("aria-describedby", "note");
  const describe = () => {
    typed.placeholder = EXAMPLES[command.value] ?? "";
    note.textContent = `${commands.find((one) => one.name === command.value)?.summary ?? ""}. Arguments as on the command line: python jobs/${command.value}.py --help`;
  };
  command.addEventListener("change", describe);
  describe();
  const form = element("form", { className: "card stack" }, element("h3", {}, "Submit a command"),
    element("div", { className: "row filters" },
      element("label", { className: "field" }, element("span", { className: "muted" }, "Command"), command),
      element("label", { className: "field grow" }, element("span", { className: "muted" }, "Arguments"), typed), button), note);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    button.textContent = "Looking at the arguments…";
    fail("");
    try {
      const job = await send("v1/jobs", { command: command.value, arguments: words(typed.value) }, signal);
      location.hash = below("#/jobs", job.job_id);
    } catch (error) {
      if (error.name !== "AbortError") fail(error.message);
    }
    button.disabled = false;
    button.textContent = "Submit";
  });
  return form;
}

const commandLine = (job) => ["python", `jobs/${job.command}.py`, ...job.arguments.map((one) => (/[^\w@%+=:,./-]/.test(one) ? `'${one}'` : one))].join(" ");
