// Second of the page's own: the list of memes, by DataTables, and the verdicts on them.
// ---- Which kind a row is -----------------------------------------------------------------------
const called = (row) => state.cut === null
  ? rows.frozen[state.model][row] === 1
  : rows.p[state.model][row] >= 10 * state.cut;
const kind = (row) => {
  const hate = called(row);
  return (hate === (rows.label[row] === 1) ? "T" : "F") + (hate ? "P" : "N");
};
const KINDS = {
  TP: "true positive", TN: "true negative", FP: "false positive", FN: "false negative" };
const LABELS = ["harmless", "hateful"];
// The middle of the ten-thousandth that p lies in: it rounds to three digits as p itself does.
const prob = (row, model = state.model) => Math.min((rows.p[model][row] + 0.5) / 10000, 1);
const wrongness = (row) => Math.abs(prob(row) - rows.label[row]);
const link = (id) => {
  try { return `#meme=${encodeURIComponent(id)}`; } catch { return "#memes"; }
};

// ---- Verdicts ----------------------------------------------------------------------------------
// The store is shared by all pages from disk, so that anything may stand in it.
const sound = ([, kept]) => typeof kept?.verdict === "string" && typeof kept.reason === "string" &&
  [0, 1].includes(kept.label);
const stored = () => {
  try { return Object.entries(JSON.parse(storage.get(data.key) || "{}")).filter(sound); }
  catch { return []; }
};
const verdicts = new Map(stored());

// Another tab with this page may have kept verdicts meanwhile.
function readAgain() {
  const found = stored();
  if (!storage.works) return;
  verdicts.clear();
  for (const [id, kept] of found) verdicts.set(id, kept);
}
addEventListener("storage", (event) => {
  if (event.key === data.key) { readAgain(); showVerdicts(); }
});

// A verdict on the label that a meme had before it was corrected is none on the one it has.
function given(id, label) {
  const kept = verdicts.get(id);
  return kept && kept.label === label ? kept : { verdict: "", reason: "" };
}

const keep = (row, change) => keepOf(rows.id[row], rows.label[row], change);

function keepOf(id, label, change) {
  readAgain();
  const after = { ...given(id, label), ...change, label };
  if (after.verdict || after.reason) verdicts.set(id, after);
  else verdicts.delete(id);
  storage.set(data.key, JSON.stringify(Object.fromEntries(verdicts)));
  showVerdicts();
}

const judged = (row) => Boolean(given(rows.id[row], rows.label[row]).verdict);
const pressed = (button) => button.getAttribute("aria-pressed") === "true";

// A meme may stand in the list, in the panel and among the suspects: all show what is kept.
function showVerdicts() {
  showProgress();
  markRows();
  if (by("reason")) {
    const { verdict, reason } = given(rows.id[state.current], rows.label[state.current]);
    for (const button of document.querySelectorAll(".verdict"))
      button.setAttribute("aria-pressed", String(button.classList.contains(verdict)));
    showReason(by("reason"), reason);
  }
  for (const { id, label, button, field } of suspects) {
    const { verdict, reason } = given(id, label);
    button.setAttribute("aria-pressed", String(verdict === "disagree"));
    showReason(field, reason);
  }
}

// What is being typed wins over what another tab has kept.
function showReason(field, reason) {
  if (field !== document.activeElement || !document.hasFocus()) field.value = reason;
}

function showProgress() {
  const of = (verdict) => [...verdicts.values()].filter((v) => v.verdict === verdict).length;
  by("progress").textContent = `${of("agree")} agreed, ${of("disagree")} disagreed, ` +
    `${of("unsure")} unsure`;
  by("kept").textContent = storage.works
    ? "Verdicts are kept in this browser. corrections.csv holds those you disagree with, with the other label" +
      (data.corrections_left_out
        ? `, and none of the ${data.corrections_left_out} corrections made before, which are too many for this page; add its rows to those in Step_2/corrections.csv.`
        : `${data.corrections.length ? `, and the ${data.corrections.length} corrections made before` : ""}; put it into Step_2/.`) +
      (data.split === "test" ? " Step 3 flags labels of test and never changes them." : "")
    : "This browser keeps nothing for a page from disk: download your verdicts before you close it.";
}

// Words that a spreadsheet would run get an apostrophe, which Step 3 takes away again.
const safe = (text) => (/^[=+\-@\t\r']/.test(text) ? `'${text}` : text);
const quoted = (text) => (/[",\r\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text);

// The corrections made before, each replaced where the label is called wrong again.
function corrections() {
  const made = new Map(data.corrections.map(([id, label, reason]) => [id, [label, reason]]));
  for (const [id, { verdict, label, reason }] of verdicts)
    if (verdict === "disagree") made.set(id, [1 - label, reason]);
  const lines = [...made].map(([id, [label, reason]]) => [safe(id), String(label), safe(reason)].map(quoted).join(","));
  return ["id,label,reason", ...lines, ""].join("\n");
}

function download(name, type, text) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  const anchor = element("a", { href: address, download: name });
  document.body.append(anchor);
  anchor.click();
  anchor.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

// ---- Pictures ----------------------------------------------------------------------------------
// A meme of the list goes by its row, a suspect of train by its place and a letter before it.
function pictureHtml(row, source = data.pictures[row], id = rows.id[row]) {
  if (!source) return '<span class="nopicture">no picture here</span>';
  const shown = revealed.has(String(row));
  return `<button type="button" class="picture" data-row="${row}" data-id="${escaped(id)}" ` +
    `aria-pressed="${shown}" aria-label="${shown ? "Veil" : "Reveal"} the picture of ${escaped(id)}">` +
    `<img src="${source}" alt=""></button>`;
}

function reveal(row) {
  revealed.has(row) ? revealed.delete(row) : revealed.add(row);
  const shown = revealed.has(row);
  for (const button of document.querySelectorAll(`.picture[data-row="${row}"]`)) {
    button.setAttribute("aria-pressed", shown);
    button.setAttribute("aria-label", `${shown ? "Veil" : "Reveal"} the picture of ${button.dataset.id}`);
  }
}

// ---- The list ----------------------------------------------------------------------------------
// DataTables takes a text with tags for HTML, so it is searched here.
const words = rows.text.map((text, row) => `${text} ${rows.id[row]}`.toLowerCase());
const memeHtml = (row) => `<bdi dir="auto">${escaped(rows.text[row]) || "<i>no text</i>"}</bdi><br>` +
  `<a href="${escaped(link(rows.id[row]))}"><bdi>${escaped(rows.id[row])}</bdi></a>`;
const cell = (html) => (_, type, row) => html(row, type);
const table = $$("#list").DataTable({
  data: rows.id.map((_, row) => row),
  deferRender: true,
  autoWidth: false,
  pageLength: 10,
  lengthMenu: [10, 25, 50],
  order: [[5, "desc"]],
  layout: { topStart: null, topEnd: null, bottomStart: ["info", "pageLength"], bottomEnd: "paging" },
  language: { emptyTable: "No memes.", zeroRecords: "No such meme among those in the page.",
    info: "_START_ to _END_ of _TOTAL_", infoEmpty: "none", infoFiltered: "", lengthMenu: "_MENU_ a page" },
  columns: [
    { title: "Picture", data: null, orderable: false, searchable: false, className: "thumb",
      render: cell((row) => pictureHtml(row)) },
    { title: "Meme", data: null, type: "string", searchable: false,
      render: cell((row, type) => (type === "display" ? memeHtml(row) : words[row])) },
    { title: "Kind", data: null, orderable: false, searchable: false, className: "kind", defaultContent: "" },
    { title: "Label", data: null, searchable: false, className: "wide",
      render: cell((row) => LABELS[rows.label[row]]) },
    { title: "p(hate)", data: null, searchable: false, className: "wide number",
      render: cell((row, type) => (type === "display" ? prob(row).toFixed(3) : prob(row))) },
    { title: "Off by", data: null, searchable: false, className: "number",
      render: cell((row, type) => (type === "display" ? wrongness(row).toFixed(3) : wrongness(row))) },
  ],
  rowCallback(tr, row) {
    tr.cells[2].textContent = KINDS[kind(row)];
    tr.cells[2].className = `kind ${kind(row)[0] === "F" ? "bad" : "good"}`;
    mark(tr, row);
    const button = tr.querySelector(".picture");
    if (button) button.setAttribute("aria-pressed", revealed.has(String(row)));
  },
});

function mark(tr, row) {
  tr.classList.toggle("judged", judged(row));
  tr.classList.toggle("current", row === state.current);
}

function markRows() {
  for (const tr of document.querySelectorAll("#list tbody tr")) mark(tr, table.row(tr).index());
}

// What the fields ask for, read once a draw instead of once a row.
let asked = {};
function ask() {
  const filter = rows.filters[by("slice").value];
  const code = filter && by("value").value !== "" ? Number(by("value").value) : null;
  asked = { kind: by("kind").value, filter, code, review: by("reviewed").value,
    sought: by("search").value.toLowerCase().split(/\s+/).filter(Boolean) };
}

table.search.fixed("page", (_, row) => {
  const is = kind(row);
  if (asked.kind === "errors" ? is[0] !== "F" : asked.kind !== "all" && asked.kind !== is) return false;
  if (asked.code !== null && asked.filter.codes[row] !== asked.code) return false;
  if (asked.review && (asked.review === "yes") !== judged(row)) return false;
  return asked.sought.every((word) => words[row].includes(word));
});

function showRows(draw = "full-reset") {
  ask();
  // How many memes are left is news where they were asked for, not at every step of the slider.
  by("list_info").setAttribute("aria-live", draw === "full-hold" ? "off" : "polite");
  table.draw(draw);
  const { fp, fn } = cells(data.reported, state.model, state.cut);
  let among = 0;
  for (let row = 0; row < rows.id.length; row++) among += kind(row)[0] === "F";
  by("shown").textContent = `At threshold ${threshold().toFixed(3)}, ${data.models[state.model].label} ` +
    `errs on ${whole(fp + fn)} of ${whole(data.n)} memes of ${data.words[data.reported]}; ` +
    `${whole(among)} of these errors are in this page, which carries ${whole(rows.id.length)} memes ` +
    `(fusion's errors first, the surest before the others, then those nearest to its threshold).`;
}

function update() {
  showNumbers();
  // A step of the slider turns no page back.
  showRows("full-hold");
  if (state.current !== null) open(state.current, false);
}

// ---- The meme under review ---------------------------------------------------------------------
function open(row, move = true) {
  state.current = row;
  const id = rows.id[row];
  const found = given(id, rows.label[row]);
  const facts = Object.entries(data.models).map(([model, { label }]) => element("tr", {},
    element("th", { scope: "row" }, label),
    element("td", {}, prob(row, model).toFixed(3)),
    element("td", {}, LABELS[rows.frozen[model][row]])));
  const told = [...rows.filters.map((f) => [f.name, f.values[f.codes[row]]]),
    ...Object.entries(rows.details).map(([name, values]) => [name, values[row]])]
    .filter(([, value]) => value !== "");
  const button = (verdict, word, key) => element("button", {
    type: "button", class: `verdict ${verdict}`, "aria-pressed": String(found.verdict === verdict),
    onclick: () => judge(verdict) }, word, element("kbd", {}, key));
  const reason = element("input", { id: "reason", type: "text", maxlength: "300", autocomplete: "off",
    oninput: (event) => keep(row, { reason: event.target.value }) });
  reason.value = found.reason;
  const picture = element("div", { class: "large" });
  picture.innerHTML = pictureHtml(row);
  by("meme").replaceChildren(
    element("h3", {}, element("bdi", {}, id)),
    picture,
    element("p", { class: "words", dir: "auto" }, rows.text[row] || "no text"),
    element("p", {}, "Label: ", element("b", {}, LABELS[rows.label[row]]),
      `. ${data.models[state.model].label} at this threshold: `,
      element("b", { class: kind(row)[0] === "F" ? "bad" : "good" }, KINDS[kind(row)])),
    element("div", { class: "verdicts", role: "group", "aria-label": "Is the label right?" },
      button("agree", "Agree ", "a"), button("disagree", "Disagree ", "d"), button("unsure", "Unsure ", "u")),
    element("label", { class: "reason" }, "Reason ", reason),
    element("div", { class: "steps" },
      element("button", { type: "button", onclick: () => step(-1) }, "Previous ", element("kbd", {}, "k")),
      element("button", { type: "button", onclick: () => step(1) }, "Next ", element("kbd", {}, "j")),
      element("a", { href: link(id) }, "Link to this meme")),
    element("table", { class: "facts" },
      element("thead", {}, element("tr", {}, ...["Model", "p(hate)", "Frozen decision"].map(
        (word) => element("th", { scope: "col" }, word)))),
      element("tbody", {}, ...facts)),
    element("dl", { class: "told" }, ...told.flatMap(([name, value]) => [
      element("dt", {}, name), element("dd", { dir: "auto" }, value)])));
  if (!move) return;
  state.place = Math.max(listed().indexOf(row), 0);
  if (location.hash !== link(id)) history.replaceState(null, "", link(id));
  markRows();
  by("meme").focus({ preventScroll: true });
  showPanel();
}

// Above the list, where it does not stick, the nearest end may be the one without the buttons.
function showPanel() {
  const sticks = getComputedStyle(by("meme")).position === "sticky";
  by("meme").scrollIntoView({ block: sticks ? "nearest" : "start" });
}

function judge(verdict) {
  const shown = pressed(document.querySelector(`.verdict.${verdict}`));
  keep(state.current, { verdict: shown ? "" : verdict });
}

const listed = () => table.rows({ search: "applied", order: "applied" }).indexes().toArray();

function step(by_) {
  const order = listed();
  if (!order.length) return;
  const at = order.indexOf(state.current);
  // Where a meme has left the list, those that follow have moved up to its place.
  const place = at < 0 ? state.place + Math.min(by_, 0) : at + by_;
  const next = order[Math.min(Math.max(place, 0), order.length - 1)];
  // A meme that was judged may leave the list only now, and the next with it its page.
  table.draw(false);
  state.place = Math.max(listed().indexOf(next), 0);
  table.page(Math.floor(state.place / table.page.len())).draw("page");
  open(next);
}

function openLinked() {
  if (!location.hash.startsWith("#meme=")) return;
  let id;
  try { id = decodeURIComponent(location.hash.slice(6)); } catch { return; }
  const row = rows.id.indexOf(id);
  if (row >= 0) return open(row);
  state.current = null;
  by("meme").replaceChildren(element("p", {}, "No meme with the id ", element("bdi", {}, id),
    ` is among the ${rows.id.length} in this page.`));
  showPanel();
}

// ---- Labels of train that look wrong -----------------------------------------------------------
// Those of the table, those on its other pages too, which DataTables takes out of the document.
const suspects = [];

// Each row of their table gets a verdict of its own, before DataTables takes the table over.
function addSuspects() {
  const made = by("table-suspects");
  if (!made || !data.suspects.id.length) return;
  made.tHead.rows[0].prepend(element("th", {}, "verdict"));
  [...made.tBodies[0].rows].forEach((tr, k) => {
    const [id, label] = [data.suspects.id[k], data.suspects.label[k]];
    const button = element("button", { type: "button", "aria-pressed": "false",
      onclick: () => keepOf(id, label, { verdict: pressed(button) ? "" : "disagree" }) }, "label is wrong");
    const field = element("input", { type: "text", maxlength: "300", "aria-label": `Reason for ${id}`,
      placeholder: "reason", oninput: (event) => keepOf(id, label, { reason: event.target.value }) });
    suspects.push({ id, label, button, field });
    const verdict = element("td", { class: "suspect" }, button, field);
    verdict.insertAdjacentHTML("beforeend", pictureHtml(`s${k}`, data.suspects.pictures[k], id));
    tr.prepend(verdict);
  });
}
