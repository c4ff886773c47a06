// First of the page's own three: numbers looked up at a threshold, and the curve over it.
const $$ = window.jQuery;
const data = JSON.parse(document.getElementById("data").textContent);
const { rows } = data;
const by = (id) => document.getElementById(id);
const state = { model: Object.keys(data.models)[0], section: data.reported, cut: null, current: null, place: 0,
  share: data.prevalence };
const revealed = new Set();

// ---- Small helpers -----------------------------------------------------------------------------
const escaped = (text) =>
  String(text).replace(/[&<>"']/g, (char) => `&#${char.charCodeAt(0)};`);

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== false) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

const format = (digits) => new Intl.NumberFormat("en",
  { minimumFractionDigits: digits, maximumFractionDigits: digits }).format;
const [whole, decimal] = [format(0), format(3)];

// Browsers may refuse storage to a page opened from disk: then verdicts live as long as the page.
const storage = {
  works: true,
  get(key) {
    try { return localStorage.getItem(key); } catch { this.works = false; return null; }
  },
  set(key, value) {
    try { localStorage.setItem(key, value); } catch { this.works = false; }
  },
};

// ---- Numbers at a threshold --------------------------------------------------------------------
const ratio = (part, whole) => (whole > 0 ? part / whole : 0);

function cells(section, model, cut) {
  const { positives, negatives, models } = data.sections[section];
  const counts = models[model];
  const [tp, fp] = cut === null ? counts.frozen : [counts.tp[cut], counts.fp[cut]];
  return { tp, fp, fn: positives - tp, tn: negatives - fp };
}

function scores({ tp, fp, fn, tn }) {
  const f1 = ratio(2 * tp, 2 * tp + fp + fn);
  return {
    precision: ratio(tp, tp + fp),
    recall: ratio(tp, tp + fn),
    f1,
    macro_f1: (f1 + ratio(2 * tn, 2 * tn + fp + fn)) / 2,
  };
}

// Of 10,000 memes at the given share of hate; nothing is known where a class is missing.
function workload({ tp, fp, fn, tn }, share) {
  if (!(tp + fn) || !(fp + tn) || Number.isNaN(share)) return null;
  const hits = 10000 * share * (tp / (tp + fn));
  const alarms = 10000 * (1 - share) * (fp / (fp + tn));
  return {
    flagged: hits + alarms,
    false_alarms: alarms,
    missed: 10000 * share - hits,
    precision_there: ratio(hits, hits + alarms),
  };
}

// What the policy does with 10,000 memes: blocks, sends to a person, allows.
function showPolicy(share) {
  const { allow, block } = data.policy;
  const { positives, negatives, policy } = data.sections[state.section];
  by("cuts").textContent = [
    block === null ? "Nothing is blocked" : `Blocked from p(hate) = ${block.toFixed(3)}`,
    allow === null ? "nothing is allowed without a person" : `allowed below ${allow.toFixed(3)}`,
    "a person sees the others"].join("; ") + ".";
  const known = positives && negatives && !Number.isNaN(share);
  const told = (value) => (known ? whole(value) : "–");
  const names = { block: "blocked", review: "sent to a person", allow: "allowed" };
  by("sides").replaceChildren(...Object.entries(names).map(([side, name]) => {
    const hateful = 10000 * share * (policy[side][0] / positives);
    const harmless = 10000 * (1 - share) * (policy[side][1] / negatives);
    return element("tr", {}, element("th", { scope: "row" }, name),
      ...[hateful + harmless, hateful, harmless].map((value) => element("td", {}, told(value))));
  }));
}

function put(id, value, written) {
  const known = value !== null && value !== undefined;
  by(id).dataset.value = known ? value : "";
  by(id).textContent = known ? written(value) : "–";
}

const threshold = () =>
  state.cut === null ? data.models[state.model].threshold : state.cut / 1000;

function showNumbers() {
  const found = cells(state.section, state.model, state.cut);
  const values = scores(found);
  for (const name of ["tp", "fp", "fn", "tn"]) put(name, found[name], whole);
  for (const name of Object.keys(values)) put(name, values[name], decimal);
  const work = workload(found, state.share);
  for (const name of ["flagged", "false_alarms", "missed"]) put(name, work && work[name], whole);
  put("precision_there", work && work.precision_there, decimal);
  showPolicy(state.share);
  by("cut").value = Math.round(threshold() * 1000);
  // Else a screen reader tells of thousandths.
  by("cut").setAttribute("aria-valuetext", threshold().toFixed(3));
  by("cut-number").value = state.cut === null ? Number(threshold().toPrecision(9)) : threshold();
  by("frozen").disabled = state.cut === null;
  const line = by("curve").querySelector(".cut");
  const x = place(threshold(), 0)[0];
  line.setAttribute("x1", x);
  line.setAttribute("x2", x);
  by("caution").textContent = caution();
  by("printed").textContent = printed();
}

// On paper there are no fields to read these from.
function printed() {
  const share = Number.isNaN(state.share) ? "" : `, share of hate ${Number((100 * state.share).toPrecision(4))}%`;
  return `${data.models[state.model].label}, threshold ${threshold().toFixed(3)}${share}, ` +
    `memes of ${data.words[state.section]}`;
}

function caution() {
  if (data.reported === data.fitted)
    return `In-sample: thresholds were fitted on the same memes (${data.words[data.reported]}).`;
  if (state.section === data.reported && state.cut !== null)
    return `Choose a threshold on ${data.words[data.fitted]}; one chosen on ` +
      `${data.words[data.reported]} flatters the numbers reported on it.`;
  return `Numbers of ${data.words[state.section]}.`;
}

function say() {
  const text = ["precision", "recall", "f1"].map((id) => `${id} ${by(id).textContent}`).join(", ");
  by("summary").textContent = `Threshold ${by("cut-number").value}: ${text}, ` +
    `flagged of 10,000 ${by("flagged").textContent}`;
}

// ---- The curve over thresholds -----------------------------------------------------------------
const place = (x, y) => [30 + 280 * x, 150 - 140 * y];

function drawCurve() {
  const names = { precision: "Precision", recall: "Recall", f1: "F1" };
  const points = { precision: [], recall: [], f1: [] };
  for (let cut = 0; cut <= 1000; cut += 5) {
    const found = cells(state.section, state.model, cut);
    const values = scores(found);
    for (const name of Object.keys(names)) {
      if (name === "precision" && found.tp + found.fp === 0) continue;
      points[name].push(place(cut / 1000, values[name]).map((v) => v.toFixed(1)).join(","));
    }
  }
  const axis = [0, 0.5, 1].flatMap((v) => [
    `<line class="grid" x1="30" x2="310" y1="${place(0, v)[1]}" y2="${place(0, v)[1]}"/>`,
    `<text x="24" y="${place(0, v)[1] + 4}" text-anchor="end">${v}</text>`,
    `<text x="${place(v, 0)[0]}" y="166" text-anchor="middle">${v}</text>`,
  ]);
  const lines = Object.keys(names).map(
    (name) => `<polyline class="${name}" points="${points[name].join(" ")}"/>`);
  const legend = Object.entries(names).map(([name, word], k) =>
    `<line class="${name}" x1="${60 + 90 * k}" x2="${78 + 90 * k}" y1="5" y2="5"/>` +
    `<text x="${82 + 90 * k}" y="9">${word}</text>`);
  by("curve").innerHTML = [
    ...axis, ...lines, ...legend, '<line class="cut" y1="10" y2="150"/>'].join("");
}
