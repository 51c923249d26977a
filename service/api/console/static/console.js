// On every page: the token of changes, the theme, what is said aloud.

const meta = document.querySelector('meta[name="csrf-token"]');

/** The headers that every change needs. */
export const changeHeaders = { [meta.dataset.header]: meta.content };

/** Say a sentence to screen readers; nobody else sees it. */
export function say(text) {
  document.getElementById("said").textContent = text;
}

/** Show a problem of the service, or take the last one away with null. */
export function showProblem(problem) {
  const notice = document.getElementById("notice");
  notice.replaceChildren();
  if (problem === null) return;
  const box = element("div", { className: "problem" });
  const sentence = element("p");
  sentence.append(element("strong", {}, problem.detail ?? String(problem)));
  box.append(sentence);
  if (problem.code) {
    box.append(element("p", { className: "soft" }, `${problem.code} · request ${problem.request_id}`));
  }
  notice.append(box);
}

/** An element with properties and texts or elements in it; texts are never read as HTML. */
export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key in made) made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

/** To the page that signs in, and back here after it. */
export function signInAgain() {
  const here = encodeURIComponent(location.pathname + location.search);
  location.assign(`/console/sign-in?next=${here}`);
}

document.addEventListener("htmx:configRequest", (event) => {
  Object.assign(event.detail.headers, changeHeaders);
});
document.addEventListener("htmx:beforeRequest", (event) => {
  const repeats = event.detail.elt.getAttribute("hx-trigger")?.includes("every");
  if (document.hidden && repeats) event.preventDefault();
  else if (event.detail.requestConfig.verb !== "get") showProblem(null);
});

let away = false;
document.addEventListener("htmx:sendError", () => {
  away = true;
  showProblem("The service cannot be reached. This page goes on by itself once it answers.");
});
document.addEventListener("htmx:afterRequest", (event) => {
  if (!away || !event.detail.successful) return;
  away = false;
  showProblem(null);
});

// What was pressed may be gone after a change: the keyboard goes on where the answer is.
document.addEventListener("htmx:afterSwap", (event) => {
  if (event.detail.requestConfig.verb === "get" || document.activeElement !== document.body) return;
  const heading = event.detail.target.querySelector("h2, h3");
  heading?.setAttribute("tabindex", "-1");
  heading?.focus();
});

const THEMES = ["auto", "light", "dark"];
const themeButton = document.getElementById("theme");

function chosenTheme() {
  return document.documentElement.dataset.theme ?? "auto";
}

function nameTheme() {
  themeButton.textContent = `Theme: ${chosenTheme()}`;
}

themeButton.addEventListener("click", () => {
  const next = THEMES[(THEMES.indexOf(chosenTheme()) + 1) % THEMES.length];
  if (next === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  try {
    localStorage.setItem("jeep-theme", next);
  } catch {
    // it holds for this page
  }
  nameTheme();
});
nameTheme();
