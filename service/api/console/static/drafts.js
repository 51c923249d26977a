// What was filled in is there again after signing in again: the service keeps no session for ever.

const KEPT = "jeep-filled-in";
const FIELDS = "main form :is(input, textarea, select)";

const isBox = (field) => field.type === "checkbox" || field.type === "radio";
const isKept = (field) => !["password", "file", "hidden"].includes(field.type) && (field.name || field.id);

/** The fields of the page's forms with what tells them apart; a page with a draft of its own keeps that. */
function fields() {
  const found = [...document.querySelectorAll(FIELDS)].filter((field) => isKept(field) && !field.closest("[data-drafts]"));
  return found.map((field) => [`${field.form.id || field.form.dataset.sends || ""} ${field.name || field.id} ${isBox(field) ? field.value : ""}`, field]);
}

/** Keep what the forms of this page hold until it is shown again. */
export function keepForms() {
  const values = Object.fromEntries(fields().map(([name, field]) => [name, isBox(field) ? field.checked : field.value]));
  try {
    sessionStorage.setItem(KEPT, JSON.stringify({ path: location.pathname, values }));
  } catch {
    // a browser without storage keeps nothing
  }
  document.dispatchEvent(new CustomEvent("jeep-leaves"));
}

function taken() {
  try {
    const kept = JSON.parse(sessionStorage.getItem(KEPT) ?? "null");
    if (kept?.path !== location.pathname) return null;
    sessionStorage.removeItem(KEPT);
    return kept.values;
  } catch {
    return null;
  }
}

/** Fill in what was kept. Choices that are loaded later are chosen when they are there. */
export function fillAgain() {
  const values = taken();
  if (values === null) return;
  const later = new Map();
  for (const [name, field] of fields()) {
    if (!(name in values)) continue;
    if (isBox(field)) field.checked = values[name];
    else field.value = values[name];
    if (field.value !== values[name] && field.localName === "select") later.set(field, values[name]);
    for (let at = field.closest("details"); at && !isBox(field) && values[name] !== field.defaultValue; at = at.parentElement.closest("details")) at.open = true;
  }
  document.addEventListener("htmx:afterSwap", ({ detail: { target } }) => {
    if (!later.has(target)) return;
    target.value = later.get(target);
    later.delete(target);
  });
}
