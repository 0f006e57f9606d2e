// Filters, charts and the detail of a number.  Every string of the report reaches the page as text, never as HTML.
"use strict";
(() => {
  const report = JSON.parse(document.getElementById("report").textContent);
  const numbers = new Map(report.numbers.map((number) => [number.id, number]));
  const latencies = new Map(report.latencies.map((latency) => [latency.id, latency]));
  const titles = new Map(report.documents.map((each) => [each.number, each.title]));
  // Outcome -> failed, broken, open or good; an outcome that is not in the list was never shown to be good.
  const MEANINGS = new Map(Object.entries(JSON.parse(document.getElementById("outcomes").textContent)));
  const means = (outcome, meaning) => (MEANINGS.get(outcome) ?? "broken") === meaning;
  const dialog = document.getElementById("detail");
  const form = document.getElementById("filters");
  const nights = report.nights.map((night) => new Date(night.started));

  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  }

  // Sizes in the unit of print, with one digit more than was printed.
  const scale = (number) => (number.unit === "percent" ? 100 : 1);
  const suffix = (number) => (number.unit === "percent" ? " %" : "");
  function natural(value, number, sign = false) {
    if (value === null) return "–";
    const digits = (/\.(\d+)$/.exec(number.printed)?.[1].length ?? (number.printed.match(/^\d+$/) ? 0 : 4)) + 1;
    const shown = (value * scale(number)).toFixed(digits);
    const plain = Number(shown) === 0 ? (0).toFixed(digits) : shown;
    return `${sign && Number(plain) > 0 ? "+" : ""}${plain}`.replace("-", "−") + suffix(number);
  }
  const signed = (value) => {
    if (value === null) return "–";
    const rounded = Math.round(value * 100) / 100 || 0;
    return `${rounded > 0 ? "+" : ""}${rounded.toFixed(2)}`.replace("-", "−");
  };
  const words = (outcome) => outcome.replaceAll("_", " ").toLowerCase();
  const duration = (seconds) => {
    if (seconds === null) return "–";
    const [size, unit] = seconds >= 1 ? [1, "s"] : seconds >= 1e-3 ? [1e-3, "ms"] : [1e-6, "µs"];
    return `${(seconds / size).toPrecision(4)} ${unit}`;
  };
  const day = (date) => date.toISOString().slice(0, 10);

  // Charts ---------------------------------------------------------------------------------------------------------

  const width = (most) => Math.max(280, Math.min(most, innerWidth - 64));
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function chart(caption, options) {
    const plot = Plot.plot({ style: { background: "transparent", fontSize: "12px" }, ...options });
    return make("figure", { class: "chart" }, plot, make("figcaption", {}, caption));
  }

  function marksOfChanges(series) {
    // A number on the axis for each night with another version than the night before; the list below says which.
    const first = series.findIndex((value) => value !== null);
    const found = report.nights.map((night, index) => ({ night, index })).filter((each) => each.night.changes.length && each.index > first);
    return found.map((each, place) => ({ ...each, date: nights[each.index], label: String(place + 1) }));
  }

  function changeList(marks) {
    if (!marks.length) return null;
    const items = marks.map((each) => make("li", {}, `${day(each.date)}: ${each.night.changes.join("; ")}`));
    return make("div", {}, make("h3", {}, "Version changes marked on the axis"), make("ol", {}, ...items));
  }

  function axisMarks(marks) {
    return [
      Plot.ruleX(marks, { x: "date", stroke: "currentColor", strokeOpacity: 0.45, strokeDasharray: "3,3" }),
      Plot.text(marks, { x: "date", text: "label", frameAnchor: "top", dy: -12, fontWeight: 600 }),
    ];
  }

  function trendTable(series, shown) {
    const rows = series.map((value, index) => ({ value, index })).filter((each) => each.value !== null).reverse();
    const body = rows.map((each) => make("tr", {}, make("th", { scope: "row" }, day(nights[each.index])), make("td", { class: "right" }, shown(each.value)), make("td", {}, report.nights[each.index].run)));
    const head = make("tr", {}, ...["Night", "Measured", "Run"].map((title) => make("th", { scope: "col" }, title)));
    return make("details", {}, make("summary", {}, `The same as a table, ${rows.length} nights`), make("div", { class: "scroll trend-table", tabindex: 0 }, make("table", { class: "rows" }, make("thead", {}, head), make("tbody", {}, ...body))));
  }

  const held = (series) => series.filter((value) => value !== null).length;

  function trend(number) {
    if (held(number.series) < 2) return [make("p", { class: "quiet" }, "No trend: fewer than two nights measured this number.")];
    const failed = new Set(number.failed_nights), by = scale(number);
    const points = number.series.map((value, index) => ({ date: nights[index], value, failed: failed.has(index), run: report.nights[index].run })).filter((each) => each.value !== null).map((each) => ({ ...each, value: each.value * by }));
    const marks = marksOfChanges(number.series);
    const band = number.expected === null || number.allowed === null ? [] : [{ low: (number.expected - number.allowed) * by, high: (number.expected + number.allowed) * by }];
    const title = (each) => `${day(each.date)}\n${each.value.toPrecision(6)}${suffix(number)}${each.failed ? ", failed" : ""}\n${each.run}`;
    const figure = chart(`Measured per night; the band is what is allowed around ${number.printed}${suffix(number)}.`, {
      ariaLabel: `Trend of ${number.id}`, width: width(860), height: 260, marginTop: 30, marginLeft: 56, marginBottom: 34,
      x: { type: "utc", label: null }, y: { label: number.unit === "percent" ? "%" : number.metric, grid: true, nice: true, zero: false },
      marks: [
        Plot.rect(band, { y1: "low", y2: "high", fill: colour("--band"), fillOpacity: 0.6 }),
        number.expected === null ? null : Plot.ruleY([number.expected * by], { stroke: colour("--quiet") }),
        ...axisMarks(marks),
        Plot.lineY(points, { x: "date", y: "value", stroke: colour("--accent"), strokeWidth: 1.5 }),
        Plot.dot(points.filter((each) => !each.failed), { x: "date", y: "value", r: 2, fill: colour("--accent") }),
        Plot.dot(points.filter((each) => each.failed), { x: "date", y: "value", r: 4.5, symbol: "times", stroke: colour("--bad"), strokeWidth: 2 }),
        Plot.tip(points, Plot.pointerX({ x: "date", y: "value", title, fill: colour("--surface") })),
      ],
    });
    return [figure, changeList(marks), trendTable(number.series, (value) => natural(value, number))];
  }

  function latencyTrend(latency) {
    if (held(latency.series) < 2) return [make("p", { class: "quiet" }, "No trend: fewer than two nights timed this case.")];
    const marks = marksOfChanges(latency.series);
    const one = (series, caption, label, by, domain, extra) => {
      const points = series.map((value, index) => ({ date: nights[index], value: value === null ? NaN : value * by }));
      return chart(caption, {
        ariaLabel: caption, width: width(860), height: 200, marginTop: 30, marginLeft: 56,
        x: { type: "utc", label: null }, y: { label, grid: true, nice: true, domain },
        marks: [...extra, ...axisMarks(marks),
          Plot.lineY(points, { x: "date", y: "value", stroke: colour("--accent"), strokeWidth: 1.5 }),
          Plot.dot(points, { x: "date", y: "value", r: 2, fill: colour("--accent") })],
      });
    };
    const timed = latency.series.filter((value) => value !== null), near = latency.baseline ?? latency.median ?? timed.at(-1);
    const around = [Math.min(...timed, 0.9 * near) * 1e6, Math.max(...timed, 1.1 * near) * 1e6];
    const base = latency.baseline === null ? [] : [Plot.ruleY([latency.baseline * 1e6], { stroke: colour("--quiet"), strokeDasharray: "4,4" })];
    const figures = [one(latency.series, "Median per night; dashed: the baseline. The axis does not begin at 0.", "µs", 1e6, around, base)];
    const most = Math.max(...latency.shares.map((value) => value ?? 0));
    if (held(latency.shares) > 1) figures.push(one(latency.shares, "Share of the roofline per night.", "%", 100, [0, Math.min(100, most * 125)], []));
    return [...figures, changeList(marks), trendTable(latency.series, duration)];
  }

  // Drawn when it comes into view: the page opens faster.
  const pending = { shown: null, seen: false };
  function scatter(shown) {
    pending.shown = shown;
    if (pending.seen) drawScatter(shown);
  }

  function watchScatter() {
    const place = document.getElementById("scatter");
    const see = () => {
      if (pending.seen) return;
      pending.seen = true;
      drawScatter(pending.shown);
    };
    new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && see(), { rootMargin: "600px" }).observe(place);
    addEventListener("beforeprint", see);
  }

  function drawScatter(shown) {
    const place = document.getElementById("scatter");
    const measured = shown.filter((number) => number.difference !== null && number.expected !== null);
    const kinds = [
      ["Accuracies: measured minus published, in points", "points", (number) => number.metric !== "perplexity", () => 100, (number) => number.expected * 100, "published, %"],
      ["Perplexities: measured minus published, in % of it", "% of the published value", (number) => number.metric === "perplexity", (number) => 100 / number.expected, (number) => number.expected, "published"],
    ];
    const figures = kinds.map(([caption, label, mine, by, x, xLabel]) => {
      const points = measured.filter(mine).map((number) => ({ number, x: x(number), y: number.difference * by(number), half: number.allowed === null ? null : number.allowed * by(number), failed: means(number.outcome, "failed") }));
      if (!points.length) return null;
      const bands = points.filter((each) => each.half !== null);
      const figure = chart(`${caption}; each bar is what is allowed.`, {
        ariaLabel: caption, width: width(640), height: 300, marginLeft: 48, marginBottom: 38, x: { label: xLabel, nice: true }, y: { label, grid: true, nice: true },
        marks: [
          Plot.ruleX(bands, { x: "x", y1: (each) => -each.half, y2: "half", stroke: colour("--band"), strokeWidth: 4, strokeOpacity: 0.75 }),
          Plot.ruleY([0], { stroke: colour("--quiet") }),
          Plot.dot(points.filter((each) => !each.failed), { x: "x", y: "y", r: 2.5, fill: colour("--ink") }),
          Plot.dot(points.filter((each) => each.failed), { x: "x", y: "y", r: 5, symbol: "times", stroke: colour("--bad"), strokeWidth: 2.5 }),
          Plot.tip(points, Plot.pointer({ x: "x", y: "y", fill: colour("--surface"), title: (each) => `${each.number.id}\n${natural(each.number.difference, each.number, true)}, ${natural(each.number.allowed, each.number)} allowed\nClick to open` })),
        ],
      });
      const svg = figure.querySelector("svg");
      svg.addEventListener("click", () => svg.value && open(svg.value.number.id));
      svg.style.cursor = "pointer";
      return figure;
    });
    place.replaceChildren(...figures.filter(Boolean));
  }

  // The detail of a number -----------------------------------------------------------------------------------------

  function figures(entries) {
    return make("dl", { class: "figures" }, ...entries.filter(Boolean).map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
  }

  function facts(entries) {
    return make("dl", { class: "facts" }, ...entries.filter((entry) => entry && entry[1] !== null && entry[1] !== "").map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, String(value)))));
  }

  function allowance(number) {
    if (!number.parts.length) return null;
    const rows = number.parts.map((part) => make("li", {}, make("b", {}, `${natural(part.size, number)} ${part.name}`), `: ${part.because}`));
    return make("div", {}, make("h3", {}, "What is allowed is made of"), make("ul", {}, ...rows));
  }

  const score = (value) => (value === null ? "–" : value === 1 ? "1 (right)" : value === 0 ? "0 (wrong)" : String(Number(value.toPrecision(6))));
  const best = (values) => values.indexOf(Math.max(...values));

  function sample(each) {
    const before = each.loglikelihoods_before, now = each.loglikelihoods_now, several = now.length > 1;
    const rows = now.map((value, index) => make("tr", {},
      make("th", { scope: "row" }, `${index}${each.target === index ? " (right answer)" : ""}`),
      make("td", {}, each.choices?.[index] ?? "text not kept"),
      make("td", { class: "right" }, `${before[index] ?? "–"}${several && best(before) === index ? " ◀ chosen" : ""}`),
      make("td", { class: "right" }, `${value}${several && best(now) === index ? " ◀ chosen" : ""}`)));
    const head = make("tr", {}, ...["", "Choice", "Log-likelihood before", "now"].map((title) => make("th", { scope: "col" }, title)));
    // The question stands at the end of a prompt.
    const prompt = make("pre", { tabindex: 0 }, each.prompt ?? "The text was not kept with this run.");
    const toEnd = () => { prompt.scrollTop = prompt.scrollHeight; };
    const shown = make("details", { class: "sample" },
      make("summary", {}, `${each.task}, document ${each.doc_id}: ${score(each.before)} before, ${score(each.now)} now`),
      make("h3", {}, "Prompt"), prompt,
      make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows)));
    shown.addEventListener("toggle", toEnd);
    return shown;
  }

  function samples(number) {
    const found = number.samples;
    if (!found) return [];
    const title = make("h3", {}, "Documents that changed");
    if (found.because) return [title, make("p", { class: "quiet" }, `Not compared: ${found.because}${found.compared_with ? ` (${found.compared_with})` : ""}.`)];
    const said = found.changed ? `${found.changed} against ${found.compared_with}: ${found.gained} score more, ${found.lost} less.` : `None against ${found.compared_with}.`;
    const rest = found.changed > found.shown.length ? make("p", { class: "quiet" }, `The ${found.shown.length} that moved most are shown; scanproof compare prints all with --number.`) : null;
    const shown = found.shown.map(sample);
    if (shown.length) shown[0].open = true;
    return [title, make("p", {}, said), ...shown, rest];
  }

  function show(title, ...body) {
    const close = make("button", { type: "button", class: "close" }, "Close (Esc)");
    close.addEventListener("click", () => dialog.close());
    const head = make("header", {}, make("h2", { id: "detail-title" }, title), close);
    dialog.replaceChildren(head, make("div", { class: "body" }, ...body.filter(Boolean)));
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
  }

  function open(id) {
    if (latencies.has(id) && !numbers.has(id)) return openLatency(id);
    const number = numbers.get(id);
    if (!number) return undefined;
    const moved = number.documents_moved === null ? "" : `, ${signed(number.documents_moved)} documents`;
    show(id,
      make("p", {}, make("b", {}, words(number.outcome)), `${number.new ? ", new since the last run" : ""}${number.fixed ? ", failed in the last run" : ""}: ${number.because}`),
      figures([
        ["Published", number.printed + suffix(number)], ["Measured", natural(number.measured, number)],
        ["Difference", natural(number.difference, number, true)], ["Allowed", natural(number.allowed, number)],
        ["Sigmas", signed(number.sigmas)], ["Detectable", natural(number.detectable, number)],
      ]),
      number.triage ? make("div", {}, make("h3", {}, "Find out why"), make("pre", { tabindex: 0 }, number.triage)) : null,
      ...trend(number), ...samples(number), allowance(number),
      number.gate_because.length ? make("div", {}, make("h3", {}, `Document by document: ${words(number.gate)}`), make("ul", {}, ...number.gate_because.map((text) => make("li", {}, text)))) : null,
      number.engines_because.length ? make("div", {}, make("h3", {}, "Measured by both engines"), make("ul", {}, ...number.engines_because.map((text) => make("li", {}, text)))) : null,
      make("h3", {}, "Where it comes from"),
      facts([
        ["Document", `${number.document}, line ${number.line}${titles.get(number.document) ? `: ${titles.get(number.document)}` : ""}`],
        ["Expected file", number.source], ["Model", number.hub_id], ["Task", number.task], ["Metric", number.metric], ["Origin", number.origin],
        ["Few-shot examples", number.num_fewshot], ["Documents scored", number.documents === null ? null : `${number.documents}${moved}`],
        ["In the last run", number.before === null ? "not there" : words(number.before)], ["Widened by hand", number.widened], ["Job", number.job], ["Engine", number.engine],
      ]),
      number.command ? make("div", {}, make("h3", {}, "Again, by hand"), make("pre", { tabindex: 0 }, number.command)) : null);
    keep(id);
    return undefined;
  }

  function openLatency(id) {
    const latency = latencies.get(id);
    show(id,
      make("p", {}, make("b", {}, words(latency.outcome)), `: ${latency.because}`),
      figures([
        ["Median", duration(latency.median)], ["Baseline", duration(latency.baseline)],
        ["Change", latency.ratio === null ? "–" : `${signed((latency.ratio - 1) * 100)} %`],
        ["Share of the roofline", latency.share === null ? "–" : `${(latency.share * 100).toFixed(1)} %`],
      ]),
      ...latencyTrend(latency),
      facts([["Operation", latency.op], ["Direction", latency.direction], ["Device", latency.device], ["Bound by", latency.bound_by]]));
    keep(id);
  }

  // Filters and the state in the address ---------------------------------------------------------------------------

  const KINDS = {
    failed: (number) => means(number.outcome, "failed"), new: (number) => number.new || number.fixed,
    known: (number) => number.outcome === "KNOWN_DISCREPANCY", broken: (number) => means(number.outcome, "broken"),
    good: (number) => means(number.outcome, "good"),
  };
  const NAMES = ["document", "model", "verdict", "text"];

  function matching() {
    const wanted = Object.fromEntries(NAMES.map((name) => [name, form.elements[name].value]));
    const text = wanted.text.trim().toLowerCase().split(/\s+/).filter(Boolean);
    return report.numbers.filter((number) =>
      (!wanted.document || number.document === wanted.document) && (!wanted.model || number.model === wanted.model) &&
      (!wanted.verdict || KINDS[wanted.verdict](number)) &&
      text.every((word) => `${number.id} ${number.hub_id} ${number.task} ${number.metric} ${number.origin}`.toLowerCase().includes(word)));
  }

  function apply() {
    const shown = matching(), ids = new Set(shown.map((number) => number.id)), narrowed = ids.size < numbers.size;
    for (const element of document.querySelectorAll("main [data-id]")) element.hidden = numbers.has(element.dataset.id) && !ids.has(element.dataset.id);
    for (const table of document.querySelectorAll("table.heat")) {
      const rows = [...table.tBodies[0].rows], columns = table.tHead.rows[0].cells.length;
      const any = (cell) => cell.querySelector("button:not([hidden])") !== null;
      for (const row of rows) row.hidden = ![...row.cells].some(any);
      for (let place = 1; place < columns; place += 1) {
        const empty = !rows.some((row) => any(row.cells[place]));
        for (const row of [table.tHead.rows[0], ...rows]) row.cells[place].hidden = empty;
      }
      const section = table.closest(".document");
      section.hidden = rows.every((row) => row.hidden);
      if (section.tagName === "DETAILS" && narrowed && !section.hidden) section.open = true;
    }
    document.getElementById("shown").textContent = narrowed ? `${ids.size} of ${numbers.size} numbers` : `${numbers.size} numbers`;
    const table = document.getElementById("table");
    if (narrowed && shown.length <= 60) table.open = true;
    scatter(shown);
  }

  function keep(id) {
    const state = new URLSearchParams();
    for (const name of form ? NAMES : []) if (form.elements[name].value) state.set(name, form.elements[name].value);
    if (id) state.set("open", id);
    const hash = state.toString();
    if (hash || location.hash.includes("=")) history.replaceState(null, "", `#${hash}`);
  }

  function restore() {
    if (!location.hash.includes("=")) return;
    const state = new URLSearchParams(location.hash.slice(1));
    for (const name of form ? NAMES : []) form.elements[name].value = state.get(name) ?? "";
    if (form) apply();
    const id = state.get("open");
    if (id) open(id);
    else if (dialog.open) dialog.close();
  }

  function neighbour(cell, key) {
    // Arrow keys move over the cells that are shown.
    const row = cell.closest("tr"), place = cell.closest("td").cellIndex;
    const rows = [...row.parentElement.rows].filter((each) => !each.hidden);
    const buttons = (each) => [...each.querySelectorAll("button.cell:not([hidden])")];
    const across = buttons(row), at = across.indexOf(cell), down = rows.indexOf(row);
    if (key === "ArrowLeft") return across[at - 1];
    if (key === "ArrowRight") return across[at + 1];
    const step = key === "ArrowUp" ? -1 : 1;
    for (let next = down + step; rows[next]; next += step) {
      const found = rows[next].cells[place].querySelector("button:not([hidden])");
      if (found) return found;
    }
    return undefined;
  }

  document.addEventListener("click", (event) => {
    const opener = event.target.closest("[data-open], [data-open-latency]");
    if (!opener) return;
    if (opener.dataset.openLatency !== undefined) openLatency(opener.dataset.openLatency);
    else open(opener.dataset.open);
  });
  document.addEventListener("keydown", (event) => {
    const cell = event.target.closest?.("button.cell");
    if (!cell || !["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"].includes(event.key)) return;
    event.preventDefault();
    neighbour(cell, event.key)?.focus();
  });
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => keep(null));
  addEventListener("hashchange", restore);
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((each) => { each.open = true; }));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (form) scatter(matching()); });
  if (form) {
    // Not every way to choose from a list is an input event.
    for (const kind of ["input", "change"]) form.addEventListener(kind, () => { apply(); keep(null); });
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => setTimeout(() => { apply(); keep(null); }));
    // A browser that goes back to the page fills the form as it was left.
    apply();
    watchScatter();
  }
  restore();
  document.documentElement.dataset.ready = "yes";
})();
