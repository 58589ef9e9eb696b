// Films under a word's attention, and the words that one points at. Shared by the page of a test
// split's reports and the page that writes new ones.

const opacity = (level, ceiling) => {
  const attention = ceiling * (level / 255) ** 2; // in multiples of uniform (uar/analysis/heatmap.py)
  return 0.8 * Math.min(1, Math.max(0, (attention - 1) / Math.max(ceiling - 1, 1e-6))) ** 0.5;
};

function bytes(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

function element(tag, className = "", text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

function paint(canvas, levels, ceiling, colors) {
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  levels.forEach((level, cell) => {
    image.data.set(colors.subarray(3 * level, 3 * level + 3), 4 * cell);
    image.data[4 * cell + 3] = 255 * opacity(level, ceiling);
  });
  context.putImageData(image, 0, 0);
}

function paintScale(scale, colors) {
  const stops = [0, 32, 64, 96, 128, 160, 192, 224, 255].map((level) => {
    const color = colors.subarray(3 * level, 3 * level + 3).join(" ");
    return `rgb(${color} / ${opacity(level, 4)})`;
  });
  scale.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
}

// The films side by side; returns each one's canvas, null where a view has no film.
function drawFilms(parent, study) {
  return study.films.map((film, i) => {
    const view = parent.appendChild(element("figure", "view"));
    if (!film) {
      view.append(element("div", "film absent", "no film"), element("figcaption", "", study.views[i]));
      return null;
    }
    const button = view.appendChild(element("button", "film"));
    button.type = "button";
    button.setAttribute("aria-label", `Enlarge the ${study.views[i]} film`);
    const image = button.appendChild(element("img"));
    image.src = film;
    image.alt = "";
    const canvas = button.appendChild(element("canvas"));
    canvas.width = canvas.height = study.side;
    const boxes = (study.boxes ?? []).filter((box) => box.view === i);
    if (boxes.length) button.append(drawBoxes(boxes));
    view.append(element("figcaption", "", study.views[i]));
    button.addEventListener("click", () => enlarge(button));
    return canvas;
  });
}

function drawBoxes(boxes) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", "0 0 1 1");
  svg.setAttribute("preserveAspectRatio", "none");
  for (const { x0, y0, x1, y1, finding } of boxes) {
    const rect = svg.appendChild(document.createElementNS(space, "rect"));
    const places = { x: x0, y: y0, width: x1 - x0, height: y1 - y0 };
    for (const [name, value] of Object.entries(places)) rect.setAttribute(name, value);
    rect.appendChild(document.createElementNS(space, "title")).textContent = finding;
  }
  return svg;
}

function enlarge(film) {
  const dialog = element("dialog", "enlarged");
  dialog.setAttribute("aria-label", film.getAttribute("aria-label"));
  const copy = film.cloneNode(true);
  copy.setAttribute("aria-label", "Close");
  dialog.append(copy);
  const source = film.querySelector("canvas");
  copy.querySelector("canvas").getContext("2d").drawImage(source, 0, 0);
  copy.addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => {
    dialog.remove();
    film.focus();
  });
  document.body.append(dialog);
  dialog.showModal();
}

// A report as sentences: the full stop at its word, a capital after it.
function readable(words, i) {
  const first = i === 0 || words[i - 1] === ".";
  return first && words[i] !== "." ? words[i][0].toUpperCase() + words[i].slice(1) : words[i];
}

// Buttons, one a word, that show where the model looked while it wrote it.
function writeWords(paragraph, caption, study, canvases, colors, adorn = () => {}) {
  const levels = bytes(study.attention);
  const cells = study.side ** 2;
  const buttons = study.words.map((word, i) => {
    const button = element("button", "", readable(study.words, i));
    button.type = "button";
    button.tabIndex = i ? -1 : 0; // one stop of the Tab key; arrows go from word to word
    adorn(button, i);
    paragraph.append(i && word !== "." ? " " : "", button);
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
      const part = ofWord.subarray(view * cells, (view + 1) * cells);
      if (canvas) paint(canvas, part, study.ceiling, colors);
    });
    caption.textContent =
      `“${study.words[i]}”: attention up to ${study.peaks[i].toFixed(1)} × uniform ` +
      `(last colour: ${study.ceiling.toFixed(1)} × or more)`;
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
  return { enter: () => buttons.length && enter(), clear };
}
