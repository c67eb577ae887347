// How pages ask the service: with a token where one is wanted, and one line about whatever goes wrong.

const KEY = "fcn-token";
let token = kept();
let dialog = null;

/** What went wrong, in one line for people. */
export class Failure extends Error {}

/**
 * Return the answer to a request of this service, or throw a Failure, or an AbortError if its signal says so.
 * Where the service wants a token, people are asked for it; it is kept until they close the tab.
 */
export async function ask(path, options = {}) {
  for (;;) {
    const used = token;
    const answer = await send(path, options, used);
    if (answer.status !== 401) {
      if (answer.ok) return answer;
      throw new Failure(await line(answer));
    }
    // Another request may have been given a token in the meantime.
    if (used === token) await askForToken(used !== null);
  }
}

/** Return the JSON that is at a path. */
export async function askJson(path, options = {}) {
  const answer = await ask(path, { ...options, headers: { Accept: "application/json", ...options.headers } });
  return answer.json();
}

/** Save what a request gives as a file. */
export async function save(path, options, name) {
  const url = URL.createObjectURL(await (await ask(path, options)).blob());
  element("a", { href: url, download: name }).click();
  // The browser reads it after this.
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** Tell whether requests carry a token. */
export const hasToken = () => token !== null;

/** Forget the token. */
export function forgetToken() {
  keep(null);
}

/** Return an element with properties and children; text is text, never markup. */
export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key in made) made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

async function send(path, options, used) {
  const headers = new Headers(options.headers);
  if (used !== null) headers.set("Authorization", `Bearer ${used}`);
  try {
    return await fetch(path, { ...options, headers, credentials: "omit", redirect: "error" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("The service cannot be reached, or closed the connection: is what was sent larger than it takes?");
  }
}

/** Say in one line what an answer says is wrong: a problem (RFC 9457), or the words of what stands between. */
async function line(answer) {
  const text = await answer.text().catch(() => "");
  let detail = text.slice(0, 200);
  let id = answer.headers.get("X-Request-ID");
  try {
    const problem = JSON.parse(text);
    detail = problem.detail ?? detail;
    id = problem.request_id ?? id;
  } catch {
    // Not ours.
  }
  const after = answer.headers.get("Retry-After");
  const again = after === null ? "" : `; try again in ${after} s`;
  return `${answer.status}: ${detail || answer.statusText}${again} (request ${id ?? "unknown"})`;
}

/** Ask for a token; requests that wait for one share the dialog. */
function askForToken(wasRefused) {
  dialog ??= showDialog(wasRefused).finally(() => (dialog = null));
  return dialog;
}

function showDialog(wasRefused) {
  const input = element("input", {
    type: "password", id: "token", autocomplete: "off", spellcheck: false, required: true,
  });
  const cancel = element("button", { type: "button" }, "Cancel");
  const form = element(
    "form", { className: "stack", method: "dialog" },
    element("h2", { id: "token-title" }, "A token is needed"),
    element("p", { className: "muted" },
      wasRefused ? "The token is not valid, or no longer." : "Whoever runs this service gives you one.",
      " It stays in this tab and goes to this service alone."),
    element("label", { htmlFor: "token" }, "Token"), input,
    element("div", { className: "row" }, element("button", { className: "first" }, "Use token"), cancel),
  );
  const shown = element("dialog", { "aria-labelledby": "token-title" }, form);
  document.body.append(shown);
  return new Promise((resolve, reject) => {
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      keep(input.value.trim());
      shown.close("given");
    });
    cancel.addEventListener("click", () => shown.close());
    shown.addEventListener("close", () => {
      shown.remove();
      if (shown.returnValue === "given") resolve();
      else reject(new Failure("The service answers with a token only: try again to enter one."));
    });
    shown.showModal();
  });
}

function kept() {
  try {
    return sessionStorage.getItem(KEY);
  } catch {
    return null;
  }
}

function keep(value) {
  token = value;
  try {
    if (value === null) sessionStorage.removeItem(KEY);
    else sessionStorage.setItem(KEY, value);
  } catch {
    // The browser keeps nothing for this page: then the page does, until it is left.
  }
}
