// The table of facts to edit. Facts are kept in a list; rows are made for the part that is in sight.

import { element } from "./console.js";
import { markField } from "./fields.js";

const IN_SIGHT = 50;
const LISTS = { paraphrase_prompts: "Rephrasings, one a line", neighborhood_prompts: "Neighbours that shall keep their answers, one a line" };
const CELLS = [
  ["subject", "Subject", "Lyon"],
  ["prompt", "Prompt", "{} is a city in the country of"],
  ["target_new", "New answer", "Japan"],
  ["target_true", "True answer", ""],
];
const NEEDED = ["subject", "prompt", "target_new"];

const isBlank = (text) => (text ?? "").trim() === "";

/** A fact as it is sent: without what is empty. */
function cleaned(fact) {
  const sent = { subject: fact.subject, target_new: fact.target_new };
  if (fact.messages) sent.messages = fact.messages;
  else sent.prompt = fact.prompt;
  if (!isBlank(fact.target_true)) sent.target_true = fact.target_true;
  for (const name of Object.keys(LISTS)) {
    const some = (fact[name] ?? []).filter((text) => !isBlank(text));
    if (some.length > 0) sent[name] = some;
  }
  if (fact.join) sent.join = fact.join;
  return sent;
}

const isEmpty = (fact) => !fact.messages && [...NEEDED, "target_true"].every((name) => isBlank(fact[name]));
const lacks = (fact) => NEEDED.filter((name) => isBlank(fact[name]) && !(name === "prompt" && fact.messages));

export class FactTable {
  /** body: the tbody; pager: where parts are chosen; changed: called after every change. */
  constructor(body, pager, changed) {
    this.body = body;
    this.pager = pager;
    this.changed = changed;
    this.facts = [];
    this.first = 0;
    this.#views = new Map();
    this.#plans = new WeakMap();
  }

  #views;
  #plans; // the last check of a fact, as long as the fact stays as it is

  /** The facts that have all that is needed, in the order of the table. */
  get whole() {
    return this.facts.filter((fact) => lacks(fact).length === 0);
  }

  get sent() {
    return this.whole.map(cleaned);
  }

  /** Everything that was typed, for keeping. */
  get typed() {
    return this.facts.filter((fact) => !isEmpty(fact));
  }

  add(facts, { focus = false } = {}) {
    const kept = facts.length > 0 ? this.typed : this.facts;
    this.facts = [...kept, ...(facts.length > 0 ? facts : [{}])];
    if (focus || facts.length > 0) this.first = Math.floor((focus ? this.facts.length - 1 : Math.max(0, kept.length)) / IN_SIGHT) * IN_SIGHT;
    this.draw();
    if (focus) this.#views.get(this.facts.at(-1))?.cells.subject.focus();
    this.changed();
  }

  clear() {
    this.facts = [{}];
    this.first = 0;
    this.draw();
    this.changed();
  }

  remove(fact) {
    const at = this.facts.indexOf(fact);
    this.facts.splice(at, 1);
    if (this.facts.length === 0) this.facts = [{}];
    if (this.first >= this.facts.length) this.first = Math.max(0, this.first - IN_SIGHT);
    this.draw();
    const next = this.facts[Math.min(at, this.facts.length - 1)];
    this.#views.get(next)?.cells.subject.focus();
    this.changed();
  }

  /** Where in what is sent the part in sight is: its first index and how many. */
  get sight() {
    const inSight = new Set(this.facts.slice(this.first, this.first + IN_SIGHT));
    const indices = this.whole.flatMap((fact, index) => (inSight.has(fact) ? [index] : []));
    return { first: indices[0] ?? 0, count: indices.length };
  }

  draw() {
    this.#views.clear();
    const part = this.facts.slice(this.first, this.first + IN_SIGHT);
    this.body.replaceChildren(...part.flatMap((fact, i) => this.#row(fact, this.first + i + 1)));
    for (const fact of part) this.#tell(fact);
    this.#drawPager();
  }

  #drawPager() {
    const count = this.facts.length;
    this.pager.replaceChildren();
    if (count <= IN_SIGHT) return;
    const move = (label, first) => {
      const button = element("button", { type: "button", disabled: first < 0 || first >= count }, label);
      button.addEventListener("click", () => {
        this.first = first;
        this.draw();
        this.changed();
        const same = [...this.pager.querySelectorAll("button")].find((one) => one.textContent === label);
        if (same && !same.disabled) same.focus();
        else this.body.querySelector("textarea")?.focus();
      });
      return button;
    };
    const last = Math.min(count, this.first + IN_SIGHT);
    this.pager.append(
      move("Earlier rows", this.first - IN_SIGHT),
      element("span", { className: "soft" }, `${this.first + 1} to ${last} of ${count} rows`),
      move("Later rows", this.first + IN_SIGHT),
    );
  }

  #row(fact, number) {
    const cells = {};
    const row = element("tr", { className: "fact" });
    row.append(element("th", { scope: "row", className: "number" }, String(number)));
    for (const [name, title, example] of CELLS) {
      const cell = element("td");
      cell.dataset.label = title;
      const field = element("textarea", { rows: 1, dir: "auto", value: fact[name] ?? "", spellcheck: false });
      if (number === 1) field.placeholder = example;
      field.setAttribute("aria-label", `${title} of fact ${number}`);
      if (name === "prompt" && fact.messages) {
        field.value = fact.messages.map((one) => `${one.role}: ${one.content}`).join("\n");
        field.readOnly = true;
      } else field.addEventListener("input", () => this.#typed(fact, name, field.value));
      cells[name] = field;
      cell.append(field);
      row.append(cell);
    }
    const remove = element("button", { type: "button", className: "quiet" }, "Remove");
    remove.setAttribute("aria-label", `Remove fact ${number}`);
    remove.addEventListener("click", () => this.remove(fact));
    row.append(element("td", {}, remove));
    const state = element("td", { colSpan: CELLS.length + 1, className: "about" });
    const about = element("tr", { className: "about" }, element("td"), state);
    this.#views.set(fact, { cells, state, row, number });
    state.append(element("div", { className: "known" }), this.#more(fact, number));
    return [row, about];
  }

  #more(fact, number) {
    const given = Object.keys(LISTS).reduce((sum, name) => sum + (fact[name]?.length ?? 0), 0);
    const summary = element("summary", {}, given > 0 ? `Tests and tokens (${given} tests)` : "Tests and tokens");
    summary.setAttribute("aria-label", `Tests and tokens of fact ${number}`);
    const fields = element("div", { className: "fields" });
    for (const [name, title] of Object.entries(LISTS)) {
      const field = element("textarea", { rows: 2, dir: "auto", value: (fact[name] ?? []).join("\n"), spellcheck: false });
      field.addEventListener("input", () => this.#typed(fact, name, field.value.split("\n")));
      fields.append(element("label", { className: "plain" }, title, field));
    }
    return element("details", {}, summary, fields, element("div", { className: "tokens" }));
  }

  #typed(fact, name, value) {
    fact[name] = value;
    if (!(name in LISTS)) {
      this.#plans.delete(fact);
      this.#views.get(fact)?.state.querySelector(".known").replaceChildren();
    }
    this.changed();
  }

  // ---------------------------------------------------------------- what is known of a fact

  /** Say what the check found: of facts by their index in what was sent. */
  show({ facts = [], duplicates = [] }, says) {
    const whole = this.whole;
    this.#says = says;
    for (const plan of facts) if (whole[plan.index]) this.#plans.set(whole[plan.index], plan);
    for (const fact of whole) this.#tell(fact);
    for (const { index, kept } of duplicates) {
      const known = this.#views.get(whole[index])?.state.querySelector(".known");
      const at = this.facts.indexOf(whole[kept]) + 1;
      known?.append(element("span", { className: "state unused" }, `the same as fact ${at}, edited once`));
    }
  }

  #says = new Map();

  #tell(fact) {
    const view = this.#views.get(fact);
    const plan = this.#plans.get(fact);
    if (!view) return;
    const known = view.state.querySelector(".known");
    known.replaceChildren();
    if (plan) this.#known(known, view.state.querySelector(".tokens"), plan, this.#says);
  }

  #known(known, tokens, plan, says) {
    const said = says.get(plan.asked);
    if (said !== undefined) {
      const text = said.failed ? said.failed : said.text.trim() || "nothing";
      known.append(element("span", {}, "says now ", element("q", {}, text)));
    }
    for (const one of plan.conflicts) {
      const word = one.known ? "already taught: " : one.same ? "replaces " : "stands beside ";
      const link = element("strong", {}, element("bdi", {}, one.target_new));
      const about = one.known ? ` in ${one.version}` : one.same ? ` of ${one.version}` : ` of ${one.version}, to `;
      const rest = one.same ? [] : [element("q", {}, one.prompt)];
      known.append(element("span", { className: one.same && !one.known ? "meets" : "soft" }, word, link, about, ...rest));
    }
    const list = element("p", { className: "mono tokenized" });
    for (const [i, token] of plan.tokens.entries()) {
      const name = i === plan.subject_last ? "subject" : i > plan.prediction ? "target" : "";
      list.append(element("span", { className: `piece ${name}` }, token.replaceAll("Ġ", "␣").replaceAll("▁", "␣").replaceAll("Ċ", "⏎")), " ");
    }
    const count = `${plan.tokens.length} tokens; marked: the subject's last token, where the subject is looked up, and the tokens of the new answer.`;
    tokens.replaceChildren(list, element("p", { className: "hint" }, count));
    if (plan.chat_text) tokens.append(element("p", { className: "hint" }, "Edited for a chat as well: "), element("p", { className: "mono tokenized" }, plan.chat_text));
  }

  /** Put errors of facts at their cells; the others are returned. */
  mark(errors) {
    const whole = this.whole;
    return errors.filter((error) => {
      const [, part, index, name] = (error.pointer ?? "").split("/");
      const fact = part === "facts" ? whole[Number(index)] : undefined;
      if (fact === undefined || index === undefined) return true;
      const view = this.#views.get(fact);
      if (view) {
        const field = view.cells[{ relation: "prompt", object: "target_new", messages: "prompt" }[name] ?? name];
        if (field) markField(field, error.message);
        else view.state.querySelector(".known").append(element("p", { className: "wrong" }, error.message));
        return false;
      }
      error.message = `fact ${this.facts.indexOf(fact) + 1}: ${error.message}`;
      return true;
    });
  }

  /** Mark what begun facts lack; whether any does. The part with the first of them comes into sight. */
  markMissing() {
    const begun = this.facts.filter((fact) => !isEmpty(fact) && lacks(fact).length > 0);
    if (begun.length === 0) return false;
    if (!this.#views.has(begun[0])) {
      this.first = Math.floor(this.facts.indexOf(begun[0]) / IN_SIGHT) * IN_SIGHT;
      this.draw();
    }
    for (const fact of begun) {
      const view = this.#views.get(fact);
      for (const name of view ? lacks(fact) : []) markField(view.cells[name], `Give the ${name === "target_new" ? "new answer" : name}, or remove the row.`);
    }
    return true;
  }
}
