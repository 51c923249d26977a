// Elements with data-job follow a job: phases, progress, time left; at its end data-part is loaded.

import { element, say } from "./console.js";

const PATIENCE_MS = 2000;
const ENDED = ["succeeded", "failed", "cancelled"];
const NAMES = {
  queued: "waits for its turn",
  probe: "probes the model",
  moments: "measures second moments",
  prepare: "prepares",
  optimise: "looks for values",
  gradients: "computes gradients",
  write: "writes matrices",
  "measure before": "measures before",
  "measure after": "measures after",
  "ask earlier facts": "asks earlier facts",
  commit: "commits the version",
  ask: "asks",
  score: "scores answers",
  "write texts": "writes texts",
  compare: "compares",
  exchange: "exchanges states",
  restore: "restores states",
  read: "reads layers",
  draw: "draws",
};

/** A duration in its largest unit, as the templates write it. */
function seconds(value) {
  for (const [length, unit] of [[3600, "h"], [60, "min"]]) {
    if (value >= length) return `${Math.round(value / length)} ${unit}`;
  }
  return `${Math.max(0, Math.round(value))} s`;
}

class Followed {
  constructor(place) {
    this.place = place;
    this.bar = place.querySelector("progress");
    this.line = place.querySelector("[data-says]");
    this.phases = place.querySelector(".phases");
    this.phase = null;
    this.began = performance.now();
    this.source = new EventSource(`/console/jobs/${place.dataset.job}/events`);
    this.source.addEventListener("progress", (event) => this.show(JSON.parse(event.data)));
    this.source.addEventListener("status", (event) => this.status(JSON.parse(event.data)));
    this.source.addEventListener("error", () => this.broken());
  }

  show({ phase, done, total, eta_seconds: left }) {
    const name = NAMES[phase] ?? phase;
    if (phase !== this.phase) this.enter(phase, name);
    if (total > 0) {
      this.bar.max = total;
      this.bar.value = Math.min(done, total);
    } else this.bar.removeAttribute("value");
    const steps = total > 0 ? `, ${done} of ${total}` : "";
    const time = left === null || left === undefined ? "" : `, about ${seconds(left)} left`;
    this.line.textContent = `${name}${steps}${time}`;
  }

  enter(phase, name) {
    const now = performance.now();
    const last = this.phases.lastElementChild;
    if (last) {
      last.classList.remove("now");
      last.append(element("span", { className: "soft" }, ` ${seconds((now - this.began) / 1000)}`));
    }
    this.phase = phase;
    this.began = now;
    this.phases.append(element("li", { className: "now" }, name));
    say(name);
  }

  status({ status }) {
    if (ENDED.includes(status)) this.end();
    else if (status === "queued") this.line.textContent = "waits for its turn";
    else if (status === "cancelling") this.line.textContent = "ends at its next safe point";
  }

  /** A stream that was refused, or has ended, is not opened again by the browser. */
  broken() {
    if (this.source.readyState === EventSource.CLOSED) setTimeout(() => this.end(), PATIENCE_MS);
  }

  /** Load what became of the job, again as long as the service does not answer. */
  async end() {
    this.source.close();
    const { part, into } = this.place.dataset;
    await window.htmx.ajax("GET", part, { target: into, swap: "innerHTML" }).catch(() => null);
    if (this.place.isConnected) setTimeout(() => this.end(), PATIENCE_MS);
  }
}

const followed = new Map();

function follow() {
  for (const [id, one] of followed) {
    if (one.place.isConnected) continue;
    one.source.close();
    followed.delete(id);
  }
  for (const place of document.querySelectorAll("[data-job]")) {
    if (!followed.has(place.dataset.job)) followed.set(place.dataset.job, new Followed(place));
  }
}

follow();
document.addEventListener("htmx:afterSwap", (event) => {
  const place = event.detail.target;
  follow();
  if (!place.dataset.outcome || place.querySelector("[data-job]")) return;
  const said = place.querySelector("h2, [data-says]");
  if (said) say(said.textContent.trim());
});
