const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const main = byId("studies");
const MARKS = { both: "✓", missing: "−", added: "+" };
const STEP = 12; // studies that are put on the page at a time
const colors = bytes(data.colors);

// ---- which studies, in which order

for (const study of data.studies) {
  const words = [...study.reference, ...study.generated].map(([word]) => word);
  study.text = `${study.id} ${words.join(" ")}`.toLowerCase();
  study.words = study.generated.map(([word]) => word);
  study.films = study.films.map((film) => film && `data:image/jpeg;base64,${film}`);
}

let chosen = [];
let drawn = 0;

function choose() {
  const wanted = byId("search").value.trim().toLowerCase().replace(/\s+/g, " ");
  const finding = byId("finding").value;
  const where = byId("where").value;
  const places = (study) => (finding ? [study.found[finding]] : Object.values(study.found));
  chosen = data.studies.filter(
    (study) =>
      study.text.includes(wanted) &&
      (finding || where ? places(study).some((place) => place && (!where || place === where)) : true),
  );
  const key = byId("sort").value;
  if (key === "varied") chosen = varied(chosen);
  if (key !== "" && key !== "varied") {
    const sign = byId("descending").checked ? -1 : 1;
    const score = (study) => study.scores[Number(key)];
    chosen.sort((a, b) => {
      if (score(a) === null || score(b) === null) return (score(a) === null) - (score(b) === null);
      return sign * (score(a) - score(b));
    });
  } else if (byId("descending").checked) {
    chosen.reverse();
  }
  byId("count").value = `${chosen.length} of ${data.studies.length} studies`;
  main.replaceChildren();
  drawn = 0;
  if (!chosen.length) main.append(element("p", "nothing", "No study matches."));
  drawMore();
}

// Studies with a finding first, and of those that got the same report one alone; then the others.
function varied(studies) {
  const texts = new Set();
  const first = studies.filter((study) => {
    const text = study.words.join(" ");
    const findings = Object.keys(study.found).some((name) => name !== data.no_finding);
    return findings && !texts.has(text) && texts.add(text);
  });
  return [...first, ...studies.filter((study) => !first.includes(study))];
}

function drawMore(count = STEP) {
  const next = chosen.slice(drawn, drawn + count);
  main.append(...next.map(draw));
  drawn += next.length;
  highlight();
}

// Hits of the search in the reports, across words and marks.
function highlight() {
  if (!globalThis.Highlight) return;
  const wanted = byId("search").value.trim().toLowerCase().replace(/\s+/g, " ");
  const hits = new Highlight();
  for (const text of wanted ? main.querySelectorAll("h2, .reference, .generated") : []) {
    const places = []; // text node and offset of each character
    let flat = "";
    const walker = document.createTreeWalker(text, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      [...walker.currentNode.data.toLowerCase()].forEach((character, i) => {
        if (character === "." && text.matches(".generated")) {
          flat += " "; // as decoded, with a blank before the full stop
          places.push([walker.currentNode, i]);
        }
        flat += character;
        places.push([walker.currentNode, i]);
      });
    }
    for (let at = flat.indexOf(wanted); at >= 0; at = flat.indexOf(wanted, at + wanted.length)) {
      const [first, last] = [places[at], places[at + wanted.length - 1]];
      const range = new Range();
      range.setStart(...first);
      range.setEnd(last[0], last[1] + 1);
      hits.add(range);
    }
  }
  CSS.highlights.set("hits", hits);
}

// ---- one study

const shown = new WeakMap(); // article to what shows and clears its attention

function draw(study) {
  const article = byId("study").content.cloneNode(true).firstElementChild;
  const find = (selector) => article.querySelector(selector);
  const link = find("h2 a");
  link.textContent = study.id;
  link.href = `#study=${encodeURIComponent(study.id)}`;
  const canvases = drawFilms(find(".films"), study);
  const [lacking, extra] = differences(study);
  writeReference(find(".reference"), study, lacking);
  const adorn = (button, i) => {
    const names = study.generated[i][1];
    if (names) Object.assign(button, markOf(study, names));
    button.classList.toggle("differs", extra.has(i));
  };
  shown.set(article, writeWords(find(".generated"), find(".caption"), study, canvases, colors, adorn));
  for (const [name, where] of Object.entries(study.found)) {
    const said = name === data.no_finding ? `${name} (of CheXpert’s 13)` : name;
    find(".findings").append(element("li", where, `${MARKS[where]} ${said}`));
  }
  find(".scores").textContent = data.scores
    .map((name, i) => `${name} ${study.scores[i] === null ? "–" : Number(study.scores[i].toFixed(3))}`)
    .join(" · ");
  return article;
}

function markOf(study, names) {
  const found = names.map((name) => [study.found[name], name]);
  return {
    className: found[0][0],
    title: found.map(([where, name]) => `${MARKS[where]} ${name}`).join(", "),
  };
}

function writeReference(paragraph, study, lacking) {
  study.reference.forEach(([word, names], i) => {
    const made = element(names ? "mark" : "span", "", word);
    if (names) Object.assign(made, markOf(study, names));
    made.classList.toggle("differs", lacking.has(i));
    paragraph.append(made, " ");
  });
}

// Words of each report that a longest common subsequence of the two leaves out.
function differences(study) {
  const plain = (word) => word.toLowerCase().replace(/[^\p{L}\p{N}-]/gu, "");
  const [a, b] = [study.reference, study.generated].map((words) => words.map(([word]) => plain(word)));
  const length = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      length[i][j] =
        a[i] === b[j] ? length[i + 1][j + 1] + 1 : Math.max(length[i + 1][j], length[i][j + 1]);
    }
  }
  const [lacking, extra] = [new Set(), new Set()];
  for (let i = 0, j = 0; i < a.length || j < b.length; ) {
    if (i < a.length && j < b.length && a[i] === b[j]) (i++, j++);
    else if (j === b.length || (i < a.length && length[i + 1][j] >= length[i][j + 1])) {
      if (a[i]) lacking.add(i);
      i++;
    } else {
      if (b[j]) extra.add(j);
      j++;
    }
  }
  return [lacking, extra];
}

// ---- the tools

function option(value, text) {
  return Object.assign(element("option", "", text), { value });
}

byId("sort").append(
  option("varied", "findings first, no text twice"),
  option("", "the data set's order"),
  ...data.scores.map((name, i) => option(i, name)),
);
byId("finding").append(
  option("", "any"),
  ...data.observations.map((name) => {
    const count = data.studies.filter((study) => study.found[name]).length;
    return option(name, `${name} (${count})`);
  }),
);
if (!data.labelled) {
  for (const label of document.querySelectorAll(".labelled")) label.hidden = true;
}
paintScale(byId("scale"), colors);
byId("boxed").hidden = !data.studies.some((study) => study.boxes.length);
byId("heat").addEventListener("change", (event) => {
  document.body.classList.toggle("without-heat", !event.target.checked);
});
byId("boxes").addEventListener("change", (event) => {
  document.body.classList.toggle("without-boxes", !event.target.checked);
});
byId("differences").addEventListener("change", (event) => {
  document.body.classList.toggle("with-differences", event.target.checked);
});
byId("search").addEventListener("input", choose);
for (const id of ["sort", "descending", "finding", "where"]) byId(id).addEventListener("change", choose);
byId("tools").addEventListener("submit", (event) => event.preventDefault());
byId("choose").addEventListener("click", () => {
  const open = byId("tools").classList.toggle("open");
  byId("choose").setAttribute("aria-expanded", open);
});
new IntersectionObserver((entries) => entries[0].isIntersecting && drawMore(), {
  rootMargin: "1500px",
}).observe(byId("more"));

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, select, dialog");
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") {
    document.activeElement.blur();
    for (const article of main.querySelectorAll(".study")) shown.get(article).clear();
  } else if (!typing && event.key === "/") {
    event.preventDefault();
    byId("search").focus();
  } else if (!typing && (event.key === "j" || event.key === "k")) {
    step(event.key === "j" ? 1 : -1);
  }
});

function step(by) {
  const articles = [...main.querySelectorAll(".study")];
  const here = articles.findIndex((article) => article.contains(document.activeElement));
  const top = articles.findIndex((article) => article.getBoundingClientRect().bottom > 100);
  const to = articles[here < 0 ? top : here + by];
  if (!to) return;
  to.scrollIntoView();
  shown.get(to).enter();
}

choose();

// ---- one study by its address; all of them on paper

function goToLinked() {
  const id = new URLSearchParams(location.hash.slice(1)).get("study");
  if (id === null) return;
  let place = chosen.findIndex((study) => study.id === id);
  if (place < 0) {
    byId("tools").reset();
    choose();
    place = chosen.findIndex((study) => study.id === id);
  }
  if (place < 0) return;
  drawMore(Math.max(0, place + 1 - drawn));
  for (const article of main.querySelectorAll(".linked")) article.classList.remove("linked");
  const article = main.querySelectorAll(".study")[place];
  article.classList.add("linked");
  article.scrollIntoView();
}

addEventListener("hashchange", goToLinked);
addEventListener("beforeprint", () => drawMore(chosen.length));
goToLinked();
