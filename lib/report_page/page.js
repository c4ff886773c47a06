// Last of the page's own: what happens on input, keys and links; colours and tips.
for (const [model, { label }] of Object.entries(data.models))
  by("model").append(element("option", { value: model }, label));
for (const section of Object.keys(data.sections))
  by("section").append(element("option", { value: section }, data.words[section]));
rows.filters.forEach(({ name }, k) => by("slice").append(element("option", { value: k }, name)));
by("section").value = state.section;
// Rounded to be read; what is counted with is exact until the field is edited.
by("prevalence").value = Number((100 * data.prevalence).toPrecision(4));
by("fate").textContent = data.split === "test"
  ? "These memes are of test. Step 3 lists corrections of their labels in its statistics and changes none: correcting only the errors shown would flatter the model."
  : "Step 3 applies corrections to memes of train and val, and only lists those of test.";

by("cut").addEventListener("input", (event) => { state.cut = Number(event.target.value); update(); });
by("cut").addEventListener("change", say);
by("cut-number").addEventListener("change", (event) => {
  const value = parseFloat(event.target.value);
  if (!Number.isNaN(value)) state.cut = Math.round(Math.min(Math.max(value, 0), 1) * 1000);
  update();
  say();
});
by("frozen").addEventListener("click", () => { state.cut = null; update(); say(); });
by("model").addEventListener("change", (event) => {
  state.model = event.target.value;
  state.cut = null;
  table.rows().invalidate();
  drawCurve();
  table.page("first");
  update();
  say();
});
by("section").addEventListener("change", (event) => {
  state.section = event.target.value;
  drawCurve();
  showNumbers();
  say();
});
by("prevalence").addEventListener("input", (event) => {
  state.share = Math.min(Math.max(parseFloat(event.target.value) / 100, 0), 1);
  showNumbers();
});
by("prevalence").addEventListener("change", (event) => {
  if (!Number.isNaN(state.share)) event.target.value = Number((100 * state.share).toPrecision(12));
  say();
});
by("slice").addEventListener("change", (event) => {
  const filter = rows.filters[event.target.value];
  by("value").replaceChildren(element("option", { value: "" }, "any"), ...(filter ? filter.values : [])
    .map((value, code) => element("option", { value: code }, value === "" ? "(none)" : value)));
  by("value").disabled = !filter;
  showRows();
});
for (const id of ["kind", "value", "reviewed"]) by(id).addEventListener("change", () => showRows());
by("search").addEventListener("input", () => showRows());
by("export").addEventListener("click", () => download("corrections.csv", "text/csv", corrections()));
by("export-all").addEventListener("click", () => download("verdicts.json", "application/json",
  JSON.stringify(Object.fromEntries(verdicts), null, 2)));
document.addEventListener("click", (event) => {
  const button = event.target.closest(".picture");
  if (button) return reveal(button.dataset.row);
  // The link of the meme that is open changes no address.
  const linked = event.target.closest('a[href^="#meme="]');
  if (linked && linked.hash === location.hash) return openLinked();
  const tr = event.target.closest("#list tbody tr");
  if (tr && !event.target.closest("a") && table.row(tr).any()) open(table.row(tr).index());
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") {
    // Without a meme its place is not displayed and cannot be focused.
    document.activeElement?.blur();
    return by("meme").focus({ preventScroll: true });
  }
  // A slider moves by arrows, and takes no letters.
  const typing = event.target.matches("input:not([type=checkbox], [type=range]), select, textarea");
  if (typing || !by("keys").checked) return;
  if (event.key === "j" || event.key === "k") return step(event.key === "j" ? 1 : -1);
  // A key held down would give a verdict, take it back and give it again.
  if (state.current === null || event.repeat) return;
  const verdict = { a: "agree", d: "disagree", u: "unsure" }[event.key];
  if (verdict) judge(verdict);
  if (event.key === "r" && data.pictures[state.current]) reveal(String(state.current));
  if (event.key === "e") { event.preventDefault(); by("reason").focus(); }
});
window.addEventListener("hashchange", openLinked);

const tip = by("tip");
document.addEventListener("pointerover", (event) => {
  const mark = event.target.closest('.chart [role="graphics-symbol"][aria-label]:not([aria-roledescription="axis"])');
  tip.hidden = !mark;
  if (!mark) return;
  tip.textContent = mark.getAttribute("aria-label");
  tip.style.left = `${Math.max(8, Math.min(event.clientX + 12, innerWidth - 260))}px`;
  tip.style.top = `${event.clientY + 14}px`;
});

function setTheme(dark) {
  document.documentElement.classList.toggle("dark", dark);
  by("theme").setAttribute("aria-pressed", String(dark));
}
const darkSystem = matchMedia("(prefers-color-scheme: dark)");
setTheme((storage.get("report-theme") || (darkSystem.matches ? "dark" : "light")) === "dark");
darkSystem.addEventListener("change", (event) => { if (!storage.get("report-theme")) setTheme(event.matches); });
by("theme").addEventListener("click", () => {
  const dark = !document.documentElement.classList.contains("dark");
  storage.set("report-theme", dark ? "dark" : "light");
  setTheme(dark);
});

addSuspects();
for (const made of document.querySelectorAll("table.sortable"))
  $$(made).DataTable({ order: [], autoWidth: false, pageLength: 15, paging: made.tBodies[0].rows.length > 15,
    searching: made.tBodies[0].rows.length > 15, info: false, lengthChange: false });
drawCurve();
update();
showVerdicts();
openLinked();
