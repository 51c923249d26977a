// Plots of the tables beside them: figures with data-plot are drawn with uPlot.
//
// A row of the table is a place on the x axis, a column a series; a cell has its value and the ends
// of its interval. With "lines" x is a whole number, with "steps" and "points" every row is a place
// of its own; points are not joined.

const figures = new Map();
const HEIGHT = 260;
const SPREAD = 0.3;
const LABEL_PX = 84;
const WHOLE = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000];

const numberOf = (text) => (text === undefined || text === "" ? null : Number(text));

function dataOf(figure) {
  const rows = [...figure.querySelectorAll("tbody tr")];
  const names = [...figure.querySelectorAll("thead [data-series]")].map((one) => one.textContent.trim());
  const series = names.map((name, i) => {
    const cells = rows.map((row) => row.querySelectorAll("td[data-value]")[i]?.dataset ?? {});
    return { name, values: cells.map((one) => numberOf(one.value)), lows: cells.map((one) => numberOf(one.low)), highs: cells.map((one) => numberOf(one.high)) };
  });
  const heads = rows.map((row) => row.querySelector("th"));
  const labels = heads.map((head) => head.textContent.trim());
  return { labels, x: heads.map((head, i) => numberOf(head.dataset.x) ?? i), series };
}

/** Colours as the page has them now: those of the legend's keys and of the texts. */
function colours(figure, count) {
  const keys = [...figure.querySelectorAll(".key")].map((key) => getComputedStyle(key).backgroundColor);
  const style = getComputedStyle(figure);
  return { keys: keys.slice(0, count), soft: style.color, line: getComputedStyle(figure.querySelector(".frame")).borderTopColor };
}

const faint = (colour) => colour.replace(/^rgb\((.*)\)$/, "rgba($1, 0.18)");

function axes(figure, { soft, line }, labels) {
  const unit = figure.dataset.unit ?? "";
  const common = { stroke: soft, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 }, font: "12px system-ui, sans-serif" };
  const x = { ...common, grid: { show: false }, incrs: WHOLE };
  if (labels) {
    Object.assign(x, { splits: labels.map((_, i) => i), values: () => labels });
    const narrow = figure.clientWidth / labels.length < LABEL_PX && labels.some((label) => label.length > 6);
    if (narrow) Object.assign(x, { rotate: -35, size: 72 });
  }
  return [x, { ...common, size: 56, values: (_, splits) => splits.map((one) => `${Number(one.toPrecision(4))}${unit}`) }];
}

function linesOf(figure, data, colour) {
  const series = [{}];
  const columns = [data.x];
  const bands = [];
  data.series.forEach((one, i) => {
    const at = series.length;
    const stroke = colour.keys[i];
    series.push({ label: one.name, stroke, width: 2, points: { show: data.x.length < 12, size: 6, fill: stroke } });
    series.push({ stroke: "transparent", points: { show: false } }, { stroke: "transparent", points: { show: false } });
    columns.push(one.values, one.highs, one.lows);
    bands.push({ series: [at + 1, at + 2], fill: faint(stroke) });
  });
  const labels = figure.dataset.plot === "steps" ? data.labels : null;
  const scales = { x: { time: false, ...(labels ? { range: [-0.2, labels.length - 0.8] } : {}) } };
  return { columns, options: { series, bands, axes: axes(figure, colour, labels), scales } };
}

function pointsOf(figure, data, colour) {
  const count = data.series.length;
  const places = data.series.map((_, i) => (count > 1 ? (i / (count - 1) - 0.5) * SPREAD : 0));
  const all = data.labels.flatMap((_, row) => places.map((place) => row + place));
  const series = [{}];
  const columns = [all];
  data.series.forEach((one, i) => {
    const filled = all.map(() => null);
    one.values.forEach((value, row) => (filled[row * count + i] = value));
    columns.push(filled);
    series.push({ label: one.name, stroke: colour.keys[i], paths: () => null, points: { show: true, size: 8, fill: colour.keys[i] } });
  });
  const ends = data.series.flatMap((one) => [...one.lows, ...one.highs, ...one.values]).filter((one) => one !== null);
  const margin = Math.max(1e-9, 0.05 * (Math.max(...ends) - Math.min(...ends)));
  const range = [Math.min(...ends) - margin, Math.max(...ends) + margin];
  const whiskers = (plot) => {
    const context = plot.ctx;
    context.save();
    context.lineWidth = 2 * devicePixelRatio;
    data.series.forEach((one, i) => {
      context.strokeStyle = colour.keys[i];
      one.lows.forEach((low, row) => {
        if (low === null || one.highs[row] === null) return;
        const x = plot.valToPos(row + places[i], "x", true);
        context.beginPath();
        context.moveTo(x, plot.valToPos(low, "y", true));
        context.lineTo(x, plot.valToPos(one.highs[row], "y", true));
        context.stroke();
      });
    });
    context.restore();
  };
  const scales = { x: { time: false, range: [-0.6, data.labels.length - 0.4] }, y: { range } };
  return { columns, options: { series, axes: axes(figure, colour, data.labels), scales, hooks: { draw: [whiskers] } } };
}

/** The layers that are proposed, behind the lines. */
function shading(figure, colour) {
  const shaded = (figure.dataset.shaded ?? "").split(" ").filter(Boolean).map(Number);
  if (shaded.length === 0) return {};
  const draw = (plot) => {
    const [left, right] = [Math.min(...shaded) - 0.4, Math.max(...shaded) + 0.4].map((at) => plot.valToPos(at, "x", true));
    const { top, height, left: edge, width } = plot.bbox;
    plot.ctx.save();
    plot.ctx.fillStyle = faint(colour.soft);
    plot.ctx.fillRect(Math.max(edge, left), top, Math.min(edge + width, right) - Math.max(edge, left), height);
    plot.ctx.restore();
  };
  return { drawClear: [draw] };
}

function draw(figure) {
  figures.get(figure)?.destroy();
  const frame = figure.querySelector(".frame");
  const data = dataOf(figure);
  if (data.series.length === 0 || data.labels.length === 0) return;
  const colour = colours(figure, data.series.length);
  const { columns, options } = (figure.dataset.plot === "points" ? pointsOf : linesOf)(figure, data, colour);
  const hooks = { ...(options.hooks ?? {}), ...shading(figure, colour) };
  const size = { width: frame.clientWidth, height: HEIGHT };
  figures.set(figure, new window.uPlot({ ...size, ...options, hooks, legend: { show: false }, cursor: { show: false } }, columns, frame));
}

function drawAll() {
  for (const figure of figures.keys()) if (!figure.isConnected) figures.delete(figure);
  for (const figure of document.querySelectorAll("[data-plot]")) {
    draw(figure);
    sizes.observe(figure.querySelector(".frame"));
  }
}

const sizes = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const plot = figures.get(target.closest("[data-plot]"));
    if (plot && target.clientWidth > 0 && plot.width !== target.clientWidth) plot.setSize({ width: target.clientWidth, height: HEIGHT });
  }
});

drawAll();
document.addEventListener("htmx:afterSwap", drawAll);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
new MutationObserver(drawAll).observe(document.documentElement, { attributeFilter: ["data-theme"] });
