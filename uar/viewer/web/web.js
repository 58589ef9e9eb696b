const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const colors = bytes(data.colors);
const result = byId("result");
const token = new URLSearchParams(location.hash.slice(1)).get("token"); // after #: in no request's address
let words = { enter() {}, clear() {} };
let text = "";
let latest = 0;
let given = []; // the files behind what is shown

paintScale(byId("scale"), colors);
if (token) {
  byId("token").value = token;
  history.replaceState(null, "", location.pathname);
}

function say(message, error = false) {
  byId("status").textContent = message;
  byId("status").classList.toggle("error", error);
}

function fault(files) {
  if (files.length > data.views) return `This model takes at most ${data.views} image${data.views > 1 ? "s" : ""}.`;
  const large = files.find((file) => file.size > data.film_bytes);
  if (large) return `${large.name} is larger than ${data.film_bytes / 1e6} MB.`;
  const empty = files.find((file) => !file.size);
  return empty ? `${empty.name} is empty.` : "";
}

async function send(files, force = false) {
  if (!files.length) return;
  given = files;
  const wrong = fault(files);
  const address = `api/report?sizes=${files.map((file) => file.size)}${force ? "&force=true" : ""}`;
  await request(address, new Blob(files), files, wrong);
}

async function request(address, body, files = [], wrong = "") {
  const mine = ++latest;
  const inside = result.contains(document.activeElement); // whose button then disappears
  result.hidden = true;
  byId("spoken").textContent = "";
  words.clear();
  if (wrong) return say(wrong, true);
  say("Writing the report …");
  try {
    const response = await ask(address, body, mine);
    const answer = await response.json().catch(() => ({ detail: response.statusText }));
    if (mine !== latest) return;
    if (response.ok) {
      show(answer);
      if (inside) result.focus();
      return;
    }
    if (response.status === 401) byId("token-line").hidden = false;
    say(named(answer.detail), true);
  } catch {
    if (mine === latest) say("The server does not respond.", true);
  }
}

// Waits and asks again while the server is busy.
async function ask(address, body, mine) {
  const headers = { "Content-Type": "application/octet-stream" };
  if (byId("token").value) headers.Authorization = `Bearer ${byId("token").value}`;
  for (let attempt = 0; ; attempt++) {
    const response = await fetch(address, { method: "POST", headers, body });
    if (response.status !== 503 || attempt === 20 || mine !== latest) return response;
    say("The server is busy; waiting …");
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

function show(report) {
  say("");
  result.hidden = false;
  const refused = report.text === null;
  byId("refusal").hidden = !refused;
  for (const part of result.querySelectorAll(".of-report")) part.hidden = refused;
  byId("forced").hidden = refused || !report.doubts.length || Boolean(report.example);
  byId("swap").hidden = !report.can_swap;
  fill(".doubts", report.doubts.map(named));
  fill(".notes", report.notes.map(named));
  const films = result.querySelector(".films");
  films.replaceChildren();
  const canvases = drawFilms(films, report);
  if (refused) {
    text = "";
    announce(`No report. ${report.doubts.map(named).join(" ")}`);
    return;
  }
  text = report.text_with_caveats;
  const paragraph = result.querySelector(".words");
  const fresh = paragraph.cloneNode(false); // without the listeners of the last report
  paragraph.replaceWith(fresh);
  words = writeWords(fresh, result.querySelector(".caption"), report, canvases, colors);
  byId("own").hidden = !report.example;
  if (report.example) {
    byId("own").querySelector("span").textContent = report.example.study_id;
    byId("own").querySelector("p").textContent = report.example.report;
  }
  byId("sure").hidden = report.sentences.every(({ certainty }) => certainty === null);
  byId("sentences").replaceChildren(...report.sentences.map(drawSentence));
  const findings = result.querySelector(".findings");
  findings.replaceChildren(...report.findings.map(drawFinding));
  if (!report.findings.length) findings.append(element("li", "silent", "none named"));
  byId("counted").textContent = counted(report.findings);
  byId("caveats").textContent = [report.research_use_only, report.origin].join(" ");
  byId("similar").hidden = !report.similar.length;
  byId("similar").querySelector("ol").replaceChildren(...report.similar.map(drawSimilar));
  announce(`Draft report: ${report.text}`);
}

// Films by their files' names, where the server knows places alone.
function named(said) {
  return given.reduce((line, file, i) => line.replaceAll(`film ${i + 1}`, file.name), said);
}

function fill(selector, lines) {
  for (const list of result.querySelectorAll(selector)) {
    list.replaceChildren(...lines.map((line) => element("li", "", line)));
  }
}

// To screen readers alone: the text itself stands on the page.
function announce(message) {
  byId("spoken").textContent = message;
}

function drawSimilar({ study_id: study, cosine, report }) {
  const line = element("li");
  line.append(element("span", "cosine", cosine.toFixed(3)), element("span", "study", study));
  if (report) line.append(element("span", "", report));
  return line;
}

function drawSentence({ text: said, certainty }) {
  const line = element("li");
  const sure = certainty === null ? "" : certainty > 0.995 ? "> 99 %" : percent(certainty);
  line.append(element("span", "certainty", sure), element("span", "", said));
  return line;
}

function drawFinding({ name, said, probability, threshold, right, written, interval }) {
  const marks = { positive: "present", uncertain: "uncertain", negative: "absent" };
  const line = element("li", said ?? "silent", `${name}: ${marks[said] ?? "not mentioned"}`);
  if (probability !== null) {
    const found = probability > threshold ? "found in the images" : "not found in the images";
    const least = threshold > 1 ? "never found: too rare in validation" : `${found}; threshold ${percent(threshold)}`;
    line.append(element("span", "likely", `, ${percent(probability)} (${least})`));
  }
  if (written !== null) {
    const range = () => interval.map((share) => Math.round(100 * share)).join(" to ");
    const count = written ? `right in ${right} of ${written} (${range()} %)` : "in no validation report";
    line.append(element("span", "likely", `; ${count}`));
  }
  return line;
}

function counted(findings) {
  const lines = [];
  if (findings.some(({ written }) => written !== null)) {
    lines.push(
      `“Right in 9 of 20” comes from ${data.studies} validation studies, which the model was not trained on: 20 of its ` +
        "reports said so, and the true report did too in 9 of these studies. The 95 % interval of that share is in brackets.",
    );
  }
  if (findings.some(({ probability }) => probability !== null)) {
    lines.push(`Percentages depend only on the images${data.calibrated ? " and are calibrated on those studies" : ""}.`);
  }
  return lines.join(" ");
}

function percent(share) {
  return `${Math.round(100 * share)} %`;
}

const drop = byId("drop");
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
}
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) drop.classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  send([...event.dataTransfer.files]);
});
byId("swap").addEventListener("click", () => send([...given].reverse()));
byId("force").addEventListener("click", () => send(given, true));
byId("example")?.addEventListener("click", () => {
  given = [];
  request("api/example", "");
});
byId("files").addEventListener("change", (event) => {
  send([...event.target.files]);
  event.target.value = ""; // the same film can be chosen again
});
byId("form").addEventListener("submit", (event) => event.preventDefault());
byId("heat").addEventListener("change", (event) => {
  document.body.classList.toggle("without-heat", !event.target.checked);
});
byId("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(text);
    say("Copied.");
  } catch {
    say("The browser does not allow copying; use Download.", true);
  }
});
byId("download").addEventListener("click", () => {
  const link = element("a");
  link.href = URL.createObjectURL(new Blob([`${text}\n`], { type: "text/plain" }));
  link.download = "report.txt";
  link.click();
  URL.revokeObjectURL(link.href);
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  document.activeElement.blur();
  words.clear();
});
