// Small drawings and figures that several pages make in the browser.

const SVG = "http://www.w3.org/2000/svg";

/** A share or probability with three figures, as the templates write it. */
export function percent(share) {
  if (share < 1e-4 && share > 0) return "< 0.01 %";
  if (share >= 0.9995) return `${(100 * share).toFixed(0)} %`;
  return `${Number((100 * share).toPrecision(3))} %`;
}

/** A bar of a share between 0 and 1; setShare changes it. */
export function bar(share, label) {
  const drawn = document.createElementNS(SVG, "svg");
  drawn.setAttribute("class", "bar");
  drawn.setAttribute("role", "img");
  drawn.setAttribute("aria-label", label);
  const rect = document.createElementNS(SVG, "rect");
  rect.setAttribute("height", "100%");
  drawn.append(rect);
  setShare(drawn, share);
  return drawn;
}

/** Change the share that a bar shows. */
export function setShare(drawn, share) {
  const width = 100 * Math.min(1, Math.max(0, share));
  drawn.firstChild.setAttribute("width", `${width.toFixed(2)}%`);
}
