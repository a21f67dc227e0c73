"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const list = document.getElementById("cases");
const cases = [...list.children];
const controls = document.querySelector(".controls");
const [find, sort, reverse] = ["find", "sort", "reverse"].map((id) => document.getElementById(id));
const texts = cases.map((one) => one.querySelector(".facts").textContent.toLowerCase());
const collator = new Intl.Collator("en", { numeric: true });

// Pictures are decoded as they come near the window.
function load(image) {
  if (!image.src) image.src = image.dataset.src;
}
const observer = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting) {
      load(entry.target);
      observer.unobserve(entry.target);
    }
  }
}, { rootMargin: "800px" });
for (const image of list.querySelectorAll("img")) observer.observe(image);
addEventListener("beforeprint", () => {
  for (const image of list.querySelectorAll(".case:not([hidden]) img")) load(image);
});

// The value of a case in the chosen order; cases without one come last.
function value(one, key) {
  const index = Number(one.dataset.number);
  if (key === "order") return index;
  if (key.startsWith("class ")) {
    const volume = data.cases[index][Number(key.slice(6))];
    return volume ? volume[0] : NaN;
  }
  return Number(one.dataset[key] ?? NaN);
}

// The largest value comes first except where a small one is the one to look at.
const ascending = new Set(["order", "name", "dice"]);

function arrange() {
  const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
  const kinds = new Set([...controls.querySelectorAll("[name=kind]:checked")].map((box) => box.value));
  const key = sort.value;
  const sign = (ascending.has(key) ? 1 : -1) * (reverse.checked ? -1 : 1);
  const values = new Map(cases.map((one) => [one, key === "name" ? 0 : value(one, key)]));
  const order = [...cases].sort((a, b) => {
    if (key === "name") return sign * collator.compare(a.dataset.name, b.dataset.name);
    const [x, y] = [values.get(a), values.get(b)];
    if (isNaN(x) || isNaN(y)) return isNaN(x) - isNaN(y);
    return sign * (x - y) || a.dataset.number - b.dataset.number;
  });
  let shown = 0;
  for (const one of order) {
    const text = texts[Number(one.dataset.number)];
    const visible = kinds.has(one.dataset.kind) && words.every((word) => text.includes(word));
    one.hidden = !visible;
    shown += visible;
  }
  list.append(...order);
  document.getElementById("shown").textContent = `${shown} shown`;
  document.getElementById("none").hidden = shown > 0;
}
controls.addEventListener("change", arrange);
find.addEventListener("input", arrange);
controls.addEventListener("submit", (event) => event.preventDefault());

// A link of the figure shows its case even if a filter hides it.
addEventListener("hashchange", () => {
  const target = document.getElementById(location.hash.slice(1));
  if (target?.classList.contains("case")) {
    if (target.hidden) {
      controls.reset();
      arrange();
    }
    target.scrollIntoView();
    target.focus({ preventScroll: true });
  }
});

function element(name, text = "", className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  made.className = className;
  return made;
}

// The table of a case: 29 rows for each of a thousand cases would be slow to load.
function fill(details) {
  const own = data.cases[Number(details.closest(".case").dataset.number)];
  const table = element("table");
  const head = table.createTHead().insertRow();
  const shares = data.has_shares ? ["% of intracranial"] : [];
  for (const text of ["class", "ml", ...shares, "median", "confidence", "sd", "0 to 250 % of the median"]) {
    const cell = element("th", text);
    cell.scope = "col";
    head.append(cell);
  }
  const body = table.createTBody();
  data.classes.forEach((one, index) => {
    if (!own[index]) return;
    const [ml, confidence, score, share] = own[index];
    const row = body.insertRow();
    if (Math.abs(score ?? 0) > data.limit) row.className = "outlier";
    const name = element("th", one.name);
    name.scope = "row";
    const swatch = element("span", "", "swatch");
    swatch.style.background = one.color;
    name.prepend(swatch);
    row.append(name);
    const cells = [
      ml.toFixed(2), ...(data.has_shares ? [share?.toFixed(2) ?? "–"] : []),
      one.median.toFixed(2), confidence?.toFixed(2) ?? "–",
      score === null ? "–" : (score > 0 ? "+" : "") + score.toFixed(1).replace("-", "−"),
    ];
    for (const text of cells) row.append(element("td", text));
    const strip = element("td", "", "strip");
    if (one.median > 0) {
      const place = (volume) => Math.min(100 * volume / one.median / 2.5, 100);
      const range = element("i");
      range.style.left = `${place(one.low)}%`;
      range.style.width = `${place(one.high) - place(one.low)}%`;
      const point = element("b");
      point.style.left = `${place(ml)}%`;
      strip.append(range, point);
    }
    row.append(strip);
  });
  details.append(table);
}
list.addEventListener("toggle", (event) => {
  const details = event.target;
  if (details.open && !details.querySelector("table")) fill(details);
}, true);

// The large picture; arrow keys go to the next case that is shown.
const large = document.getElementById("large");
let current = null;
function enlarge(one) {
  current = one;
  const image = one.querySelector("img");
  load(image);
  const shown = large.querySelector("img");
  shown.src = image.src;
  shown.alt = image.alt;
  document.getElementById("caption").textContent = one.dataset.name;
  if (!large.open) large.showModal();
}
function step(by) {
  const visible = [...list.children].filter((one) => !one.hidden && one.querySelector("img"));
  const next = visible[visible.indexOf(current) + by];
  if (next) enlarge(next);
}
list.addEventListener("click", (event) => {
  const button = event.target.closest(".picture button");
  if (button) enlarge(button.closest(".case"));
});
document.getElementById("previous").addEventListener("click", () => step(-1));
document.getElementById("next").addEventListener("click", () => step(1));
large.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});
large.addEventListener("close", () => {
  current.scrollIntoView({ block: "nearest" });
  current.querySelector(".picture button").focus();
});
arrange();
