// The page "Ask": what is asked, of which versions; an answer for each pair.

import { Answer, CandidateScale } from "./answer.js";
import { element, say, showProblem } from "./console.js";

const MOST_ANSWERS = 48;
const ROLES = ["system", "user", "assistant"];
const form = document.getElementById("ask");
const at = (id) => document.getElementById(id);
let running = null;

const isChat = () => form.elements.kind.value === "chat";
const linesOf = (text) => text.split("\n").filter((line) => line.trim() !== "");

// ------------------------------------------------------------------ messages of a chat

function addTurn(role, content = "") {
  const number = at("turns").children.length + 1;
  const select = element("select", {}, ...ROLES.map((name) => element("option", { selected: name === role }, name)));
  select.setAttribute("aria-label", `Role of message ${number}`);
  const text = element("textarea", { rows: 2, value: content });
  text.setAttribute("aria-label", `Message ${number}`);
  const remove = element("button", { type: "button", className: "quiet" }, "Remove");
  const turn = element("div", { className: "turn" }, select, text, remove);
  remove.addEventListener("click", () => {
    turn.remove();
    at("add-turn").focus();
  });
  at("turns").append(turn);
  return text;
}

function messages() {
  const turns = [...at("turns").children].map((turn) => ({
    role: turn.querySelector("select").value,
    content: turn.querySelector("textarea").value,
  }));
  return turns.filter((turn) => turn.content.trim() !== "");
}

function chooseKind() {
  at("plain").hidden = isChat();
  at("chat").hidden = !isChat();
  if (isChat() && at("turns").children.length === 0) addTurn("user", at("prompts").value.trim());
}

// ------------------------------------------------------------------ versions

function addVersion(name) {
  if (name === "") return;
  const known = [...form.elements.version].find((box) => box.value === name);
  if (known) known.checked = true;
  else {
    const box = element("input", { type: "checkbox", name: "version", value: name, checked: true });
    at("versions").insertBefore(element("label", {}, box, name), at("versions").querySelector(".adder"));
  }
}

function addOther() {
  addVersion(at("other").value.trim());
  at("other").value = "";
}

const versions = () => [...form.querySelectorAll("[name=version]:checked")].map((box) => box.value);

// ------------------------------------------------------------------ asking

function options() {
  const number = (id) => (at(id).value === "" ? null : Number(at(id).value));
  return {
    max_new_tokens: number("max_new_tokens"),
    temperature: number("temperature"),
    top_p: number("top_p"),
    top_k: number("top_k"),
    seed: number("seed"),
    stop: at("stop").value === "" ? [] : [at("stop").value],
    candidates: linesOf(at("candidates").value),
    top_probabilities: Number(form.dataset.probabilities),
  };
}

function questions() {
  if (isChat()) {
    const turns = messages();
    return turns.length > 0 ? [{ title: turns.at(-1).content, asked: { messages: turns } }] : [];
  }
  return linesOf(at("prompts").value).map((prompt) => ({ title: prompt, asked: { prompt } }));
}

function missing(asked, chosen) {
  if (asked.length === 0) return isChat() ? "Write a message first." : "Write a prompt first.";
  if (chosen.length === 0) return "Choose a version to ask.";
  if (asked.length * chosen.length > MOST_ANSWERS) {
    return `At most ${MOST_ANSWERS} answers at once: take fewer prompts or versions.`;
  }
  return null;
}

function rowOf({ title, asked }, chosen, explains) {
  const scale = new CandidateScale();
  const found = element("div", { className: "found" });
  found.setAttribute("aria-live", "polite");
  const place = explains ? found : null;
  const answers = chosen.map((version) => new Answer(asked, version, scale, place));
  const columns = element("div", { className: "columns" }, ...answers.map((one) => one.card));
  const row = element("section", { className: "panel" }, element("h2", { className: "prompt" }, title), columns, found);
  row.setAttribute("aria-label", title);
  at("answers").append(row);
  return answers;
}

async function ask() {
  const asked = questions();
  const chosen = versions();
  const reason = missing(asked, chosen);
  showProblem(reason);
  if (reason !== null) return;
  running?.abort();
  const control = new AbortController();
  running = control;
  at("answers").replaceChildren();
  at("legend").hidden = false;
  at("halt").hidden = false;
  const explains = form.dataset.explains === "yes";
  const answers = asked.flatMap((question) => rowOf(question, chosen, explains));
  const given = options();
  let done = 0;
  const progress = () => {
    at("progress").textContent = done < answers.length ? `${done} of ${answers.length} answers` : "";
  };
  progress();
  await Promise.all(
    answers.map(async (answer) => {
      await answer.run(given, control.signal);
      done += 1;
      if (running === control) progress();
      if (isChat() && answer.result && !answer.failed) offerToGoOn(answer);
    }),
  );
  if (running !== control) return;
  at("halt").hidden = true;
  at("progress").textContent = "";
  say(answers.map((one) => `${one.version}: ${one.failed ? "failed" : one.text}`).join(". "));
}

/** A chat goes on with the answer of one version. */
function offerToGoOn(answer) {
  const button = element("button", { type: "button" }, "Go on with this answer");
  button.addEventListener("click", () => {
    addTurn("assistant", answer.text.trim());
    addTurn("user").focus();
  });
  answer.more.append(element("p", { className: "acts" }, button));
}

// ------------------------------------------------------------------ kept over signing in again

const KEPT = "jeep-asked";

/** Messages and versions are elements of this script's; the page's own fields are kept without it. */
function keep() {
  sessionStorage.setItem(KEPT, JSON.stringify({ turns: messages(), versions: versions() }));
}

function fillAgain() {
  const kept = JSON.parse(sessionStorage.getItem(KEPT) ?? "null");
  sessionStorage.removeItem(KEPT);
  for (const { role, content } of kept?.turns ?? []) addTurn(role, content);
  for (const name of kept?.versions ?? []) addVersion(name);
}

if (form) {
  document.addEventListener("jeep-leaves", keep);
  fillAgain();
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    ask();
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  for (const box of form.elements.kind) box.addEventListener("change", chooseKind);
  at("add-turn").addEventListener("click", () => addTurn("user").focus());
  at("add-version").addEventListener("click", addOther);
  at("other").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    addOther();
  });
  at("halt").addEventListener("click", () => {
    running?.abort();
    at("halt").hidden = true;
    at("progress").textContent = "";
  });
  chooseKind();
}
