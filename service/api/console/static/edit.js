// The page "Edit": facts, their live check, and sending them once.

import { element, say, showProblem } from "./console.js";
import { FactTable } from "./fact-table.js";
import { clearFields, markFields, newKey, Refusal, send, showRefusal, switchedOff } from "./fields.js";

const DRAFT = "jeep-edit";
const QUICK_MS = 350;
const SLOW_MS = 1500;
const MANY = 200;
const ASKED_AT_ONCE = 25;
const form = document.getElementById("edit");
const at = (id) => document.getElementById(id);
const says = new Map();
let checking = null;
let timer = 0;
let sent = { body: null, key: null };
let aside = []; // facts that a link or "Remove all" has taken from the table
let wanted = {}; // hyper-parameters of a draft, until their fields are there

// ------------------------------------------------------------------ what is sent

const number = (id) => (at(id).value.trim() === "" ? undefined : Number(at(id).value));

function guards() {
  const names = ["min_success", "min_efficacy", "min_locality", "max_perplexity_ratio", "max_drift", "min_ability"];
  const given = Object.fromEntries(names.map((name) => [name, number(name)]).filter(([, value]) => value !== undefined));
  return Object.keys(given).length > 0 ? given : undefined;
}

/** What was typed for hyper-parameters, by their path. */
function typedHparams() {
  const typed = [...form.querySelectorAll("[data-hparam]")].map((field) => [field.dataset.hparam, field.value.trim()]);
  return { ...wanted, ...Object.fromEntries(typed.filter(([, text]) => text !== "")) };
}

/** What was changed of the hyper-parameters: values as JSON, else as texts. */
function hparams() {
  const found = {};
  for (const [name, text] of Object.entries(typedHparams())) {
    let value = text;
    try {
      value = JSON.parse(value);
    } catch {
      // a word, which needs no quotes here
    }
    const path = name.split(".");
    const last = path.pop();
    const holder = path.reduce((inner, name) => (inner[name] ??= {}), found);
    holder[last] = value;
  }
  return Object.keys(found).length > 0 ? found : undefined;
}

function earlier() {
  const text = at("check_earlier").value.trim();
  if (text === "") return undefined;
  return /^\d+$/.test(text) ? Number(text) : text;
}

function body() {
  const editor = at("editor").value;
  const preset = at("preset").value || undefined;
  const chosen = editor === "auto" ? { preset } : { preset, hparams: hparams() };
  return {
    facts: table.sent,
    editor,
    ...chosen,
    guards: guards(),
    activate: form.elements.activate.value === "live",
    snapshot_name: at("snapshot_name").value.trim() || undefined,
    parent: at("parent").checked ? at("parent").value : undefined,
    check_earlier: earlier(),
    repair: at("repair").checked || undefined,
  };
}

// ------------------------------------------------------------------ the live check

function changed() {
  keep();
  clearTimeout(timer);
  checking?.abort();
  const count = table.whole.length;
  at("count").textContent = count === 0 ? "" : `${count} fact${count === 1 ? "" : "s"}`;
  at("tidy").hidden = table.typed.length === 0;
  if (count === 0) {
    clearFields(form);
    at("plan").replaceChildren();
    return;
  }
  timer = setTimeout(check, count > MANY ? SLOW_MS : QUICK_MS);
}

async function check() {
  const control = new AbortController();
  checking = control;
  const { first, count } = table.sight;
  const where = `/console/edit/check?first=${first}&count=${Math.min(count, 100)}`;
  try {
    const found = await send(where, JSON.stringify(body()), { signal: control.signal });
    if (checking !== control) return;
    showChecked(found);
    if (form.dataset.asks === "yes") await ask(found, control);
  } catch (error) {
    if (!control.signal.aborted && error instanceof Refusal) {
      at("plan").replaceChildren(element("p", { className: "soft" }, `Not checked: ${error.message}`));
    }
  }
}

function showChecked(found) {
  clearFields(form);
  table.show(found, says);
  const rest = markFields(form, table.mark(found.errors));
  at("plan").replaceChildren(...plan(found, rest));
}

function plan(found, rest) {
  const lines = [];
  if (found.errors.length > 0) {
    const count = found.errors.length;
    lines.push(element("p", { className: "wrong" }, `${count} thing${count === 1 ? " is" : "s are"} to be mended before this can be edited.`));
    for (const error of rest.slice(0, 5)) lines.push(element("p", { className: "wrong" }, error.message));
    if (rest.length === 0 && count === 0) lines.push(element("p", { className: "wrong" }, found.detail));
    return lines;
  }
  if (found.about.length > 0) {
    const about = [...found.about];
    if (found.replaces > 0) about.push(`${found.replaces} replace${found.replaces === 1 ? "s" : ""} what was taught before`);
    if (found.known > 0) about.push(`${found.known} ${found.known === 1 ? "is" : "are"} already taught`);
    lines.push(element("p", { className: "soft" }, `${about.join("; ")}.`));
  }
  for (const one of found.obstacles) lines.push(element("p", { className: "wrong" }, one.message));
  for (const text of found.warnings) lines.push(element("p", { className: "soft" }, text));
  return lines;
}

/** Ask head the prompts in sight that it was not asked yet. */
async function ask(found, control) {
  const prompts = [...new Set(found.facts.map((one) => one.asked))].filter((prompt) => prompt && !says.has(prompt));
  for (let i = 0; i < prompts.length; i += ASKED_AT_ONCE) {
    const some = prompts.slice(i, i + ASKED_AT_ONCE);
    try {
      const answer = await send("/console/edit/says", JSON.stringify({ prompts: some }), { signal: control.signal });
      for (const one of answer.said) says.set(one.prompt, one);
    } catch (error) {
      if (control.signal.aborted || !(error instanceof Refusal)) throw error;
      at("plan").append(element("p", { className: "soft" }, `What the model says now is not known: ${error.message}`));
      return;
    }
    if (checking !== control) return;
    table.show(found, says);
  }
}

// ------------------------------------------------------------------ files and pasted tables

async function take(text, query = "") {
  const problems = at("unread");
  problems.replaceChildren();
  at("reading").textContent = "Reads …";
  try {
    const found = await send(`/console/edit/read${query}`, new Blob([text], { type: "application/octet-stream" }));
    table.add(found.facts);
    const count = found.facts.length;
    at("reading").textContent = `${count} fact${count === 1 ? "" : "s"} added (${found.format}).`;
    say(at("reading").textContent);
    const more = found.lost - found.problems.length;
    if (found.problems.length > 0) {
      const lines = found.problems.map((one) => element("li", {}, one));
      if (more > 0) lines.push(element("li", {}, `${more} more`));
      problems.append(element("p", {}, "Not taken:"), element("ul", {}, ...lines));
    }
    return true;
  } catch (error) {
    at("reading").textContent = "";
    const listed = (error.problem?.errors ?? []).slice(0, 10).map((one) => element("li", {}, `${one.pointer ?? ""} ${one.message}`.trim()));
    problems.append(element("p", { className: "wrong" }, error.message), element("ul", {}, ...listed));
    return false;
  }
}

async function takeFile() {
  const file = at("file").files[0];
  if (!file) {
    at("reading").textContent = "Choose a file first.";
    return;
  }
  const query = new URLSearchParams();
  if (at("format").value) query.set("format", at("format").value);
  if (at("limit").value) query.set("limit", at("limit").value);
  if (await take(file, `?${query}`)) at("file").value = "";
}

async function takePasted() {
  const text = at("pasted").value;
  if (text.trim() === "") {
    at("reading").textContent = "Paste a table first.";
    return;
  }
  if (await take(text)) at("pasted").value = "";
}

// ------------------------------------------------------------------ editor and preset

function choosePresets() {
  const editor = at("editor").value;
  const presets = JSON.parse(form.dataset.presets)[editor] ?? [];
  const option = (value, text) => element("option", { value }, text);
  const first = editor === "auto" ? form.dataset.usualPreset : presets[0];
  const usual = option("", presets.length > 0 ? `usual (${first})` : "none for this model");
  const named = presets.map((name) => option(name, name === "auto" ? "auto: chosen for the model" : name));
  at("preset").replaceChildren(usual, ...named);
  at("preset").disabled = presets.length === 0;
}

async function showSettings() {
  if (!at("hparams").open) return;
  const query = new URLSearchParams({ editor: at("editor").value, preset: at("preset").value });
  await window.htmx.ajax("GET", `/console/edit/settings?${query}`, { target: "#settings", swap: "innerHTML" });
  for (const field of form.querySelectorAll("[data-hparam]")) field.value = wanted[field.dataset.hparam] ?? "";
  wanted = {};
}

// ------------------------------------------------------------------ kept until it is sent

const KEPT = ["editor", "preset", "snapshot_name", "check_earlier", "min_success", "min_efficacy", "min_locality", "max_perplexity_ratio", "max_drift", "min_ability", "staged", "repair", "parent"];
const isBox = (field) => field.type === "checkbox" || field.type === "radio";

function keep() {
  const fields = Object.fromEntries(KEPT.map((id) => [id, isBox(at(id)) ? at(id).checked : at(id).value]));
  try {
    const about = { link: form.dataset.facts, aside, hparams: typedHparams() };
    sessionStorage.setItem(DRAFT, JSON.stringify({ facts: table.typed, fields, sent, ...about }));
  } catch {
    // too much for this browser: it is kept as long as the page is open
  }
}

function kept() {
  try {
    return JSON.parse(sessionStorage.getItem(DRAFT) ?? "null");
  } catch {
    return null;
  }
}

/** Fill in what a draft, or an edit that is sent again, had beside its facts. */
function fill({ fields = {}, hparams: changes = {} }) {
  for (const [id, value] of Object.entries(fields)) {
    if (id === "preset") choosePresets();
    const field = at(id);
    if (!field || field.disabled) continue;
    if (isBox(field)) field.checked = value;
    else field.value = value;
  }
  wanted = changes;
  const folded = [...Object.keys(fields).map(at).filter((one) => one && !isBox(one) && one.value !== "" && !["editor", "preset"].includes(one.id))];
  if (Object.keys(changes).length > 0) folded.push(at("settings"));
  for (const field of folded) for (let part = field.closest("details"); part; part = part.parentElement.closest("details")) part.open = true;
}

/** Offer facts that are no longer in the table. */
function setAside(facts, said) {
  aside = facts;
  at("aside").hidden = facts.length === 0;
  if (facts.length === 0) return;
  const count = `${facts.length} fact${facts.length === 1 ? "" : "s"}`;
  at("aside").querySelector("[role=status]").textContent = `${count} ${said}.`;
}

// ------------------------------------------------------------------ sending

async function submit() {
  if (at("go").disabled) return;
  clearTimeout(timer);
  checking?.abort();
  checking = null;
  showProblem(null);
  clearFields(form);
  if (table.markMissing()) {
    form.querySelector("[aria-invalid]")?.focus();
    return;
  }
  const content = JSON.stringify(body());
  if (table.whole.length === 0) {
    showProblem("Write a fact first: a subject, a prompt, and the new answer.");
    return;
  }
  if (sent.body !== content) sent = { body: content, key: newKey() };
  keep();
  const switchOn = switchedOff(at("go"));
  at("sending").textContent = "Sends …";
  try {
    const found = await send("/console/edit", content, { headers: { "Idempotency-Key": sent.key } });
    sent = { body: null, key: null };
    if (aside.length > 0) sessionStorage.setItem(DRAFT, JSON.stringify({ facts: aside, fields: {}, sent, link: "[]", aside: [] }));
    else sessionStorage.removeItem(DRAFT);
    if (found.location) {
      location.assign(found.location); // until it is there nothing can be sent a second time
      return;
    }
    at("sending").textContent = found.said;
    switchOn();
  } catch (error) {
    at("sending").textContent = "";
    const problem = error.problem ?? { detail: String(error) };
    if (error.status === 0) problem.detail += " Nothing is edited twice: the same edit is sent with the same key.";
    problem.errors = table.mark(problem.errors ?? []);
    showRefusal(form, error);
    switchOn();
  }
}

// ------------------------------------------------------------------ beginning

const table = form ? new FactTable(at("facts"), at("pager"), changed) : null;

if (form) {
  document.body.addEventListener("jeep-changed", () => says.clear());
  choosePresets();
  const given = JSON.parse(form.dataset.facts);
  const last = kept();
  const draft = given.length === 0 || last?.link === form.dataset.facts ? last : null;
  if (draft) sent = draft.sent;
  fill(draft ?? JSON.parse(form.dataset.settings));
  if (last) setAside(draft ? last.aside : last.facts, "put aside, as a link has brought others");
  const facts = draft?.facts ?? given;
  table.add(facts.length > 0 ? facts : []);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  form.addEventListener("change", (event) => {
    if (event.target.id === "editor") choosePresets();
    if (event.target.id === "editor" || event.target.id === "preset") showSettings();
  });
  form.addEventListener("input", (event) => {
    if (!event.target.closest("#facts, #import")) changed();
  });
  form.addEventListener("paste", (event) => {
    if (!event.target.closest("#facts")) return;
    const text = event.clipboardData.getData("text/plain");
    if (!text.includes("\t")) return;
    event.preventDefault();
    take(text);
  });
  window.addEventListener("pageshow", (event) => {
    if (event.persisted) at("go").disabled = false;
  });
  at("hparams").addEventListener("toggle", showSettings);
  at("add").addEventListener("click", () => table.add([], { focus: true }));
  at("tidy").addEventListener("click", () => {
    setAside(table.typed, "removed");
    table.clear();
    at("put-back").focus();
  });
  at("put-back").addEventListener("click", () => {
    table.add(aside);
    setAside([], "");
    keep();
    at("add").focus();
  });
  at("forget").addEventListener("click", () => {
    setAside([], "");
    keep();
    at("add").focus();
  });
  at("take-file").addEventListener("click", takeFile);
  at("take-pasted").addEventListener("click", takePasted);
}
