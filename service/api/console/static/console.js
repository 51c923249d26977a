// On every page: the token of changes, the theme, what is said aloud.

import { fillAgain, keepForms } from "./drafts.js";

const meta = document.querySelector('meta[name="csrf-token"]');

/** The headers that every change needs. */
export const changeHeaders = { [meta.dataset.header]: meta.content };

/** Say a sentence to screen readers; nobody else sees it. */
export function say(text) {
  document.getElementById("said").textContent = text;
}

/** A message of the interface as a sentence: with a capital, and a full stop at its end. */
export function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?…]$/.test(text) ? "" : ".");
}

/** Show a problem of the service, or take the last one away with null. */
export function showProblem(problem) {
  const notice = document.getElementById("notice");
  notice.replaceChildren();
  if (problem === null) return;
  const box = element("div", { className: "problem" });
  box.append(element("p", {}, element("strong", {}, sentence(problem.detail ?? String(problem)))));
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
  keepForms();
  const here = encodeURIComponent(location.pathname + location.search);
  location.assign(`/console/sign-in?next=${here}`);
}

document.addEventListener("htmx:configRequest", (event) => {
  Object.assign(event.detail.headers, changeHeaders);
});
document.addEventListener("htmx:beforeOnLoad", (event) => {
  if (event.detail.xhr.status === 401) keepForms(); // htmx goes to the page that signs in
});
document.addEventListener("htmx:beforeRequest", (event) => {
  const repeats = event.detail.elt.getAttribute("hx-trigger")?.includes("every");
  if (document.hidden && repeats) event.preventDefault();
  else if (event.detail.requestConfig.verb !== "get") showProblem(null);
});

// ------------------------------------------------------------------ parts that do not come

const RETRY_MS = 2000;
let away = false;
let refused = null; // what asked for the part whose refusal is shown

const isPart = ({ requestConfig: { verb }, elt }) => verb === "get" && elt.getAttribute("hx-trigger")?.includes("load");

/** Ask again for a part that loads by itself. */
function askAgain({ elt, requestConfig: { path, target } }) {
  if (!elt.isConnected) return;
  window.htmx.ajax("GET", path, { source: elt, target, swap: elt.getAttribute("hx-swap") ?? "innerHTML" }).catch(() => null);
}

/** A part that was refused says so where it would stand, and can be asked for again. */
function offerToAskAgain(detail) {
  const place = detail.elt.querySelector(".empty, option");
  if (!place?.textContent.trim().endsWith("…")) return;
  place.textContent = "This could not be loaded. ";
  if (place.localName === "option") return;
  const button = element("button", { type: "button" }, "Try again");
  button.addEventListener("click", () => askAgain(detail));
  place.append(button);
}

document.addEventListener("htmx:sendError", ({ detail }) => {
  away = true;
  showProblem("The service cannot be reached. This page goes on by itself once it answers.");
  if (isPart(detail)) setTimeout(askAgain, RETRY_MS, detail);
});
document.addEventListener("htmx:responseError", ({ detail }) => {
  refused = detail.elt;
  if (detail.xhr.status === 401 || !isPart(detail)) return;
  const follows = detail.elt.querySelector("progress") !== null;
  if (follows && detail.xhr.status >= 500) setTimeout(askAgain, RETRY_MS, detail);
  else offerToAskAgain(detail);
});
document.addEventListener("htmx:afterRequest", ({ detail }) => {
  if (!detail.successful || !(away || refused === detail.elt)) return;
  away = false;
  refused = null;
  showProblem(null);
});

// ------------------------------------------------------------------ where the keyboard goes on

let pressed = null; // what had the focus when a part was asked for, and the part

document.addEventListener("htmx:beforeRequest", ({ detail: { elt, target } }) => {
  const active = document.activeElement; // a button that is switched off meanwhile loses it
  if (active === document.body || !(elt.contains(active) || target.contains(active))) return;
  pressed = { target, name: active.localName, text: active.textContent.trim() };
});

/** In the new part: the same button, else the heading in it or above it. */
function placeIn(part, { name, text }) {
  const same = [...part.querySelectorAll("button, a, summary")].find((one) => one.localName === name && one.textContent.trim() === text && !one.disabled);
  return same ?? part.querySelector("h2, h3") ?? part.closest("section")?.querySelector("h2, h3");
}

// What was pressed may be gone: the keyboard goes on where the answer is, once it is there.
document.addEventListener("htmx:afterSwap", ({ detail: { target, requestConfig } }) => {
  if (pressed?.target !== target) return;
  if (requestConfig.verb === "get" && target.querySelector("[hx-trigger^='load']:has(progress)")) return;
  const lost = document.activeElement === document.body;
  const place = lost ? placeIn(target, pressed) : null;
  pressed = null;
  if (place?.localName.startsWith("h")) place.setAttribute("tabindex", "-1");
  place?.focus();
});

// A problem in a folded part can only be seen, and focused, once it is open.
document.addEventListener("invalid", ({ target }) => {
  for (let at = target.closest("details"); at; at = at.parentElement.closest("details")) at.open = true;
}, true);

// What was searched for stays in the address, for reloading and for the way back.
document.addEventListener("htmx:afterOnLoad", ({ detail: { elt, successful } }) => {
  const form = elt.closest?.("form[role=search]");
  if (form && successful !== false) history.replaceState(null, "", `${form.getAttribute("action")}?${new URLSearchParams(new FormData(form))}`);
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
fillAgain();

const UNITS = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
const MOVES_EVERY_MS = 5000;
const began = new WeakMap();

/** Ages of what is on the page go on; they are counted from the service's, not by this clock. */
function moveTimes() {
  for (const time of document.querySelectorAll("time[data-age]")) {
    if (!began.has(time)) began.set(time, performance.now() / 1000 - Number(time.dataset.age));
    const age = performance.now() / 1000 - began.get(time);
    const [length, unit] = UNITS.find(([seconds]) => age >= seconds) ?? UNITS.at(-1);
    const text = `${Math.max(0, Math.round(age / length))} ${unit} ago`;
    if (time.textContent !== text) time.textContent = text;
  }
}

moveTimes();
document.addEventListener("htmx:afterSettle", moveTimes);
setInterval(moveTimes, MOVES_EVERY_MS);
