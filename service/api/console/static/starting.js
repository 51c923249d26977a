// Forms with data-sends: sent once by a script, so that problems stand beside their fields.

import { clearFields, newKey, send, showRefusal, switchedOff } from "./fields.js";
import { showProblem } from "./console.js";

function contentOf(form) {
  const file = form.querySelector("input[type=file]");
  if (!file) return { path: form.dataset.sends, body: new URLSearchParams(new FormData(form)) };
  const query = new URLSearchParams([...new FormData(form)].filter(([, value]) => typeof value === "string"));
  const content = file.files[0];
  return { path: `${form.dataset.sends}?${query}`, body: content && new Blob([content], { type: "application/octet-stream" }) };
}

for (const form of document.querySelectorAll("form[data-sends]")) {
  const says = form.querySelector("[role=status]");
  const button = form.querySelector("button.main");
  let sent = { content: null, key: null };

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    showProblem(null);
    clearFields(form);
    const { path, body } = contentOf(form);
    if (body === undefined) {
      says.textContent = "Choose a file first.";
      return;
    }
    const content = `${path} ${body}`;
    if (sent.content !== content || body instanceof Blob) sent = { content, key: newKey() };
    const switchOn = switchedOff(button);
    says.textContent = "Sends …";
    try {
      const found = await send(path, body, { headers: { "Idempotency-Key": sent.key } });
      if (found.location) location.assign(found.location);
      else says.textContent = found.said;
    } catch (error) {
      says.textContent = "";
      showRefusal(form, error);
    } finally {
      switchOn();
    }
  });

  const choose = () => {
    const kind = form.elements.kind?.value;
    for (const part of form.querySelectorAll("[data-kind]")) part.hidden = part.dataset.kind !== kind;
  };
  if (form.elements.kind) {
    form.addEventListener("change", choose);
    choose();
  }
}
