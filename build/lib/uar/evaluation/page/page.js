"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const main = byId("studies");
const MARKS = { both: "✓", missing: "−", added: "+" };
const STEP = 12; // studies that are put on the page at a time
const opacity = (level) => 0.8 * (level / 255) ** 1.5; // weak attention leaves the film visible
const colors = bytes(data.colors);

function bytes(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

function element(tag, className = "", text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

// ---- which studies, in which order

for (const study of data.studies) {
  const words = [...study.reference, ...study.generated].map(([word]) => word);
  study.text = `${study.id} ${words.join(" ")}`.toLowerCase();
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
  if (key !== "") {
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
  if (!chosen.length) main.append(element("p", "nothing", "No study is like that."));
  drawMore();
}

function drawMore() {
  const next = chosen.slice(drawn, drawn + STEP);
  main.append(...next.map(draw));
  drawn += next.length;
}

// ---- one study

const shown = new WeakMap(); // article to what shows and clears its attention

function draw(study) {
  const article = byId("study").content.cloneNode(true).firstElementChild;
  const find = (selector) => article.querySelector(selector);
  find("h2").textContent = study.id;
  const canvases = study.films.map((film) => {
    const figure = element("figure", film ? "film" : "film absent", film ? "" : "no film");
    if (!film) {
      find(".films").append(figure);
      return null;
    }
    const image = element("img");
    image.src = `data:image/jpeg;base64,${film}`;
    image.alt = "chest film";
    const canvas = element("canvas");
    canvas.width = canvas.height = study.side;
    figure.append(image, canvas);
    find(".films").append(figure);
    return canvas;
  });
  writeReference(find(".reference"), study);
  writeGenerated(article, find(".generated"), find(".caption"), study, canvases);
  for (const [name, where] of Object.entries(study.found)) {
    find(".findings").append(element("li", where, `${MARKS[where]} ${name}`));
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

function writeReference(paragraph, study) {
  for (const [word, names] of study.reference) {
    if (names) paragraph.append(Object.assign(element("mark", "", word), markOf(study, names)), " ");
    else paragraph.append(`${word} `);
  }
}

function writeGenerated(article, paragraph, caption, study, canvases) {
  const levels = bytes(study.attention);
  const cells = study.side ** 2;
  const buttons = study.generated.map(([word, names], i) => {
    const button = element("button", "", word);
    button.type = "button";
    button.tabIndex = i ? -1 : 0; // one stop of the Tab key; arrows go from word to word
    if (names) Object.assign(button, markOf(study, names));
    paragraph.append(button, " ");
    return button;
  });
  if (!buttons.length) paragraph.append("(no words)");

  const clear = () => {
    for (const button of buttons) button.classList.remove("shown");
    for (const canvas of canvases) canvas?.getContext("2d").clearRect(0, 0, study.side, study.side);
    caption.textContent = "\u00a0";
  };
  const show = (i) => {
    clear();
    buttons[i].classList.add("shown");
    const ofWord = levels.subarray(i * cells * canvases.length, (i + 1) * cells * canvases.length);
    canvases.forEach((canvas, view) => {
      if (canvas) paint(canvas, ofWord.subarray(view * cells, (view + 1) * cells));
    });
    caption.textContent =
      `“${study.generated[i][0]}”: attention up to ${study.peaks[i]} × uniform ` +
      `(last colour: ${study.ceiling} × and more)`;
  };
  const focused = () => buttons.indexOf(document.activeElement);
  const settle = () => (focused() < 0 ? clear() : show(focused()));
  const go = (i) => {
    for (const [j, button] of buttons.entries()) button.tabIndex = j === i ? 0 : -1;
    buttons[i].focus();
  };
  buttons.forEach((button, i) => {
    button.addEventListener("pointerenter", () => show(i));
    button.addEventListener("focus", () => show(i));
    button.addEventListener("click", () => go(i));
  });
  paragraph.addEventListener("pointerleave", settle);
  paragraph.addEventListener("focusout", () => setTimeout(settle));
  paragraph.addEventListener("keydown", (event) => {
    const i = focused();
    const to = { ArrowLeft: i - 1, ArrowRight: i + 1, Home: 0, End: buttons.length - 1 }[event.key];
    if (i < 0 || !buttons[to]) return;
    event.preventDefault();
    go(to);
  });
  const enter = () => go(Math.max(0, buttons.findIndex((button) => button.tabIndex === 0)));
  shown.set(article, { enter: () => buttons.length && enter(), clear });
}

function paint(canvas, levels) {
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  levels.forEach((level, cell) => {
    image.data.set(colors.subarray(3 * level, 3 * level + 3), 4 * cell);
    image.data[4 * cell + 3] = 255 * opacity(level);
  });
  context.putImageData(image, 0, 0);
}

// ---- the tools

function option(value, text) {
  return Object.assign(element("option", "", text), { value });
}

byId("sort").append(option("", "the data set's order"), ...data.scores.map((name, i) => option(i, name)));
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
byId("scale").style.background = `linear-gradient(to right, ${[0, 64, 128, 192, 255]
  .map((level) => `rgb(${colors.subarray(3 * level, 3 * level + 3).join(" ")} / ${0.2 + opacity(level)})`)
  .join(", ")})`;

byId("search").addEventListener("input", choose);
for (const id of ["sort", "descending", "finding", "where"]) byId(id).addEventListener("change", choose);
byId("tools").addEventListener("submit", (event) => event.preventDefault());
new IntersectionObserver((entries) => entries[0].isIntersecting && drawMore(), {
  rootMargin: "1500px",
}).observe(byId("more"));

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, select");
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
