// One answer: its tokens as they come, what else could have been there, candidates, why.

import { changeHeaders, element, sentence, signInAgain } from "./console.js";
import { bar, percent, setShare } from "./drawing.js";
import { eventsOf } from "./events.js";
import { switchedOff } from "./fields.js";

const SHADES = [0.9, 0.5, 0.2, 0.05];
const END_OF_CLAIM = /[.,;:!?\n]/;
let made = 0;

/** Why an answer was refused: every reason, without the places in a request that nobody wrote here. */
function reasons({ detail, errors = [] }) {
  return errors.length > 0 ? errors.map((one) => one.message).join("; ") : detail;
}

/** Texts with blanks and line ends that can be seen. */
function visible(text) {
  return text === "" ? "∅" : text.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replaceAll(" ", "␣");
}

/** How a row's candidates are drawn: all bars against the most probable one of the row. */
export class CandidateScale {
  #drawn = [];

  add(drawn, probability) {
    this.#drawn.push([drawn, probability]);
    const most = Math.max(...this.#drawn.map(([, p]) => p));
    for (const [one, p] of this.#drawn) setShare(one, most > 0 ? p / most : 0);
  }
}

export class Answer {
  /**
   * asked: {prompt} or {messages}; version: as chosen; scale: of the row's candidates; place: where
   * the row shows an explanation, null if none is offered.
   */
  constructor(asked, version, scale, place) {
    this.asked = asked;
    this.version = version;
    this.text = "";
    this.result = null;
    this.failed = false;
    this.#scale = scale;
    this.#place = place;
    this.#id = `answer-${(made += 1)}`;
    this.#tokens = [];
    this.#active = -1;
    this.#build();
  }

  #scale;
  #place;
  #id;
  #tokens;
  #active;

  #build() {
    this.about = element("span", { className: "soft" }, "waits …");
    const head = element("header", {}, element("h3", {}, this.version), this.about);
    const label = `Tokens of the answer of ${this.version}`;
    this.list = element("div", { className: "text", role: "listbox", tabIndex: 0 });
    this.list.setAttribute("aria-label", label);
    this.detail = element("div", { className: "detail", hidden: true });
    this.more = element("div");
    this.card = element("article", { className: "answer" }, head, this.list, this.detail, this.more);
    this.list.addEventListener("pointerover", (event) => this.#point(event));
    this.list.addEventListener("click", (event) => this.#point(event));
    this.list.addEventListener("keydown", (event) => this.#step(event));
    this.list.addEventListener("focus", () => {
      if (this.#active < 0 && this.list.matches(":focus-visible")) this.#show(0);
    });
  }

  /** Ask the service and show what comes, until the end or the signal. */
  async run(options, signal) {
    const began = performance.now();
    try {
      const response = await fetch("/console/ask/stream", {
        method: "POST",
        headers: { "Content-Type": "application/json", Accept: "text/event-stream", ...changeHeaders },
        body: JSON.stringify({ ...this.asked, ...options, version: this.version }),
        signal,
      });
      if (response.status === 401) signInAgain();
      else if (!response.ok) this.#fail(reasons(await response.json()));
      else await this.#take(response);
    } catch (error) {
      if (signal.aborted) this.about.textContent = "stopped";
      else this.#fail(`the service does not answer (${error.message})`);
      return;
    }
    if (this.result) this.#finish((performance.now() - began) / 1000);
  }

  async #take(response) {
    this.about.textContent = "writes …";
    for await (const { name, data } of eventsOf(response)) {
      if (name === "token") this.#add(data);
      else if (name === "result") this.result = data.results[0];
      else if (name === "error") this.#fail(data.detail);
    }
  }

  #add(token) {
    const shade = SHADES.filter((least) => token.probability < least).length;
    const text = this.text === "" ? token.delta.trimStart() : token.delta;
    const shown = text === "" ? "·" : text;
    const option = element("span", { className: `token p${shade}`, role: "option" }, shown);
    option.id = `${this.#id}-${this.#tokens.length}`;
    option.setAttribute("aria-selected", "false");
    option.setAttribute("aria-label", `${token.text.trim() || visible(token.text)}, ${percent(token.probability)}`);
    this.#tokens.push(token);
    this.text += token.delta;
    this.list.append(option);
  }

  #fail(reason) {
    this.failed = true;
    this.about.textContent = "failed";
    this.more.append(element("p", { className: "problem", role: "alert" }, sentence(reason)));
  }

  #finish(seconds) {
    const { version, finish_reason: reason, error, candidates } = this.result;
    if (reason === "error") {
      this.#fail(error?.message ?? "the answer failed");
      return;
    }
    const ended = reason === "length" ? "cut at the limit" : "ended by itself";
    const count = this.#tokens.length;
    const id = version === this.version ? "" : `${version} · `;
    this.about.textContent = `${id}${count} token${count === 1 ? "" : "s"}, ${ended}, ${seconds.toFixed(1)} s`;
    if (count === 0) this.list.append(element("span", { className: "soft", role: "option" }, "nothing written"));
    if (candidates.length > 0) this.more.append(this.#candidates(candidates));
    if (this.#place && version !== "v0" && this.text.trim() !== "") this.more.append(this.#why());
  }

  #candidates(candidates) {
    const body = element("tbody");
    const most = Math.max(...candidates.map((one) => one.log_probability));
    for (const one of candidates) {
      const whole = Math.exp(one.log_probability);
      const drawn = bar(0, percent(whole));
      this.#scale.add(drawn, whole);
      const name = element("th", { scope: "row" }, one.text);
      if (one.log_probability === most) name.className = "first";
      const figure = element("td", { className: "number" }, percent(whole));
      figure.title = `${percent(one.probability)} per token, ${one.tokens} tokens`;
      body.append(element("tr", {}, name, element("td", { className: "wide" }, drawn), figure));
    }
    const caption = element("caption", {}, "Candidates, relative to the best");
    return element("table", { className: "candidates" }, caption, body);
  }

  #why() {
    const field = element("input", { id: `${this.#id}-why`, value: this.#claim(), required: true });
    field.setAttribute("spellcheck", "false");
    const button = element("button", {}, "Explain");
    const label = element("label", { htmlFor: field.id }, "Why does it say");
    const form = element("form", { className: "why" }, label, field, button);
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const switchOn = switchedOff(button);
      button.textContent = "Explains …";
      const asked = this.asked.messages
        ? { messages: JSON.stringify(this.asked.messages) }
        : { prompt: this.asked.prompt };
      const values = { ...asked, version: this.result.version, answer: field.value };
      const target = this.#place;
      await window.htmx.ajax("POST", "/console/ask/why", { target, swap: "innerHTML", values });
      target.scrollIntoView({ block: "nearest" });
      switchOn();
      button.textContent = "Explain";
    });
    return element("details", {}, element("summary", {}, "Why?"), form);
  }

  /** The first words of the answer: what an edit would have been about. */
  #claim() {
    const text = this.text.trimStart();
    const end = text.search(END_OF_CLAIM);
    return (end > 0 ? text.slice(0, end) : text).slice(0, 80).trim();
  }

  #point(event) {
    const option = event.target.closest("[role=option]");
    if (option && option.id) this.#show(Number(option.id.slice(this.#id.length + 1)));
  }

  #step(event) {
    const last = this.#tokens.length - 1;
    const to = {
      ArrowRight: this.#active + 1,
      ArrowDown: this.#active + 1,
      ArrowLeft: this.#active - 1,
      ArrowUp: this.#active - 1,
      Home: 0,
      End: last,
    }[event.key];
    if (to === undefined || last < 0) return;
    event.preventDefault();
    this.#show(Math.min(last, Math.max(0, to)));
  }

  #show(at) {
    const token = this.#tokens[at];
    if (!token || at === this.#active) return;
    this.list.children[this.#active]?.setAttribute("aria-selected", "false");
    this.#active = at;
    const option = this.list.children[at];
    option.setAttribute("aria-selected", "true");
    this.list.setAttribute("aria-activedescendant", option.id);
    const body = element("tbody");
    const others = token.top.some((one) => one.id === token.id) ? token.top : [token, ...token.top];
    for (const one of others) {
      const name = element("th", { scope: "row", className: "mono" }, visible(one.text));
      if (one.id === token.id) name.classList.add("first");
      const drawn = bar(one.probability, percent(one.probability));
      const figure = element("td", { className: "number" }, percent(one.probability));
      body.append(element("tr", {}, name, element("td", { className: "wide" }, drawn), figure));
    }
    const caption = element("caption", {}, `Token ${at + 1} of ${this.#tokens.length}`);
    this.detail.replaceChildren(element("table", {}, caption, body));
    this.detail.hidden = false;
  }
}
