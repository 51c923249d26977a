// The dialog of a page: opened by what is put into it, closed by its buttons, Escape and the page.

const dialog = document.getElementById("dialog");

document.addEventListener("htmx:afterSwap", (event) => {
  if (event.detail.target !== dialog) return;
  if (!dialog.open) dialog.showModal();
  const first = dialog.querySelector("[aria-invalid]") ?? dialog.querySelector("[autofocus]") ?? dialog.querySelector("h2");
  if (first.localName === "h2") first.setAttribute("tabindex", "-1");
  first.focus();
});

// A job's progress that arrives after the dialog was closed must not open it again.
document.addEventListener("htmx:beforeSwap", (event) => {
  const polls = event.detail.requestConfig.elt.closest("#dialog") !== null;
  if (polls && !dialog.open) event.detail.shouldSwap = false;
});

// While the dialog is open, what lies above the page cannot be seen.
document.addEventListener("htmx:sendError", () => {
  const place = dialog.open && dialog.querySelector("[data-notice]");
  if (!place) return;
  const box = document.createElement("p");
  box.className = "problem";
  box.textContent = "The service cannot be reached. What is filled in stays; try again.";
  place.replaceChildren(box);
});

dialog.addEventListener("click", (event) => {
  if (event.target.closest("[data-closes]")) dialog.close();
});
dialog.addEventListener("change", (event) => {
  const name = event.target.dataset.opens;
  if (!name) return;
  for (const options of dialog.querySelectorAll("[id^='options-']")) {
    options.hidden = options.id !== name;
  }
});
dialog.addEventListener("close", () => {
  dialog.replaceChildren();
  if (document.activeElement !== document.body) return;
  const heading = document.querySelector("h1");
  heading.setAttribute("tabindex", "-1");
  heading.focus();
});
