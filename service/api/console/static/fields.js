// Requests of forms that scripts send, and problems beside the fields that they are about.

import { changeHeaders, element, showProblem, signInAgain } from "./console.js";

let marked = 0;

/** A problem that the service answered with, or that no answer came. */
export class Refusal extends Error {
  constructor(problem, status) {
    super(problem.detail);
    this.problem = problem;
    this.status = status;
  }
}

/** Send a change or a question; the answer as JSON, else a Refusal. Signing in again is asked for here. */
export async function send(path, body, { headers = {}, signal } = {}) {
  let response;
  const isText = typeof body === "string";
  try {
    response = await fetch(path, {
      method: "POST",
      headers: { ...(isText ? { "Content-Type": "application/json" } : {}), Accept: "application/json", ...changeHeaders, ...headers },
      body,
      signal,
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Refusal({ detail: "The service cannot be reached. What you wrote is still here: try again." }, 0);
  }
  if (response.status === 401) signInAgain();
  const answer = await response.json().catch(() => ({ detail: `The service answered ${response.status} without a reason.` }));
  if (!response.ok) throw new Refusal(answer, response.status);
  return answer;
}

/** Take the problems at fields away. */
export function clearFields(form) {
  for (const one of form.querySelectorAll(".wrong")) one.remove();
  for (const one of form.querySelectorAll("[aria-invalid]")) {
    one.removeAttribute("aria-invalid");
    one.removeAttribute("aria-describedby");
    if (one.dataset.described) one.setAttribute("aria-describedby", one.dataset.described);
  }
}

/** Put a sentence at a field. */
export function markField(field, sentence) {
  const note = element("p", { className: "wrong" }, sentence);
  note.id = `wrong-${(marked += 1)}`;
  if (field.dataset.described === undefined) field.dataset.described = field.getAttribute("aria-describedby") ?? "";
  field.setAttribute("aria-invalid", "true");
  field.setAttribute("aria-describedby", `${field.dataset.described} ${note.id}`.trim());
  (field.closest(".choices, [data-field]") ?? field).after(note);
  for (let at = field.closest("details"); at; at = at.parentElement.closest("details")) at.open = true;
}

/** Put each error beside the field that it is about; returns those that have none here. */
export function markFields(form, errors) {
  const fields = [...form.querySelectorAll("[data-pointer]")];
  return errors.filter((error) => {
    let pointer = error.pointer ?? `/${error.parameter ?? ""}`;
    while (pointer.length > 1) {
      const field = fields.find((one) => one.dataset.pointer === pointer);
      if (field) {
        markField(field, error.message);
        return false;
      }
      pointer = pointer.slice(0, pointer.lastIndexOf("/"));
    }
    return true;
  });
}

/** Show a refusal: at its fields, and at the top what has none. The first wrong field is focused. */
export function showRefusal(form, error) {
  const problem = error.problem ?? { detail: String(error) };
  const errors = problem.errors ?? [];
  const rest = markFields(form, errors);
  showProblem(errors.length > 0 && rest.length === 0 ? null : problem);
  const first = form.querySelector("[aria-invalid]");
  if (first) first.focus();
  else document.getElementById("notice").scrollIntoView({ block: "nearest" });
}

/** Switch a button off while something is sent; what is returned switches it on, with the focus that it had. */
export function switchedOff(button) {
  const focused = document.activeElement === button; // a button that is off loses it to the page
  button.disabled = true;
  return () => {
    button.disabled = false;
    if (focused && document.activeElement === document.body) button.focus({ preventScroll: true });
  };
}

/** A key that no other request has; the same request sent again with it is done once. */
export function newKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((one) => one.toString(16).padStart(2, "0")).join("");
}
