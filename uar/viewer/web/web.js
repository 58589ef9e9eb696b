const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const colors = bytes(data.colors);
const result = byId("result");
const token = new URLSearchParams(location.hash.slice(1)).get("token"); // after #: in no request's address
let words = { enter() {}, clear() {} };
let text = "";
let latest = 0;

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
  if (files.length > data.views) return `This model takes at most ${data.views} film${data.views > 1 ? "s" : ""}.`;
  const large = files.find((file) => file.size > data.film_bytes);
  if (large) return `${large.name} is larger than ${data.film_bytes / 1e6} MB.`;
  const empty = files.find((file) => !file.size);
  return empty ? `${empty.name} is empty.` : "";
}

async function send(files) {
  if (!files.length) return;
  const mine = ++latest;
  result.hidden = true;
  words.clear();
  const wrong = fault(files);
  if (wrong) return say(wrong, true);
  say("Writing the report …");
  try {
    const response = await ask(files, mine);
    const answer = await response.json().catch(() => ({ detail: response.statusText }));
    if (mine !== latest) return;
    if (response.ok) return show(answer);
    if (response.status === 401) byId("token-line").hidden = false;
    const named = files.reduce((said, file, i) => said.replace(`film ${i + 1}:`, `${file.name}:`), answer.detail);
    say(named, true);
  } catch {
    if (mine === latest) say("The server does not answer.", true);
  }
}

// Waits and asks again while the server is busy.
async function ask(files, mine) {
  const headers = { "Content-Type": "application/octet-stream" };
  if (byId("token").value) headers.Authorization = `Bearer ${byId("token").value}`;
  const address = `api/report?sizes=${files.map((file) => file.size)}`;
  for (let attempt = 0; ; attempt++) {
    const response = await fetch(address, { method: "POST", headers, body: new Blob(files) });
    if (response.status !== 503 || attempt === 20 || mine !== latest) return response;
    say("The server is busy; waiting for a place …");
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

function show(report) {
  say("");
  text = report.text;
  result.hidden = false;
  const films = result.querySelector(".films");
  films.replaceChildren();
  const paragraph = result.querySelector(".words");
  paragraph.replaceChildren();
  const canvases = drawFilms(films, report);
  const fresh = paragraph.cloneNode(false); // without the listeners of the last report
  paragraph.replaceWith(fresh);
  words = writeWords(fresh, result.querySelector(".caption"), report, canvases, colors);
  byId("sentences").replaceChildren(...report.sentences.map(drawSentence));
  const findings = result.querySelector(".findings");
  findings.replaceChildren(...report.findings.map(drawFinding));
  if (!report.findings.length) findings.append(element("li", "silent", "none named"));
  byId("notes").replaceChildren(...report.notes.map((note) => element("li", "", note)));
  byId("similar").hidden = !report.similar.length;
  byId("similar").querySelector("ol").replaceChildren(...report.similar.map(drawSimilar));
}

function drawSimilar({ study_id: study, cosine, report }) {
  const line = element("li");
  line.append(element("span", "cosine", cosine.toFixed(3)), element("span", "study", study));
  if (report) line.append(element("span", "", report));
  return line;
}

function drawSentence({ text: said, mean_log_probability }) {
  const certain = Math.exp(mean_log_probability);
  const line = element("li");
  const sure = element("span", "sure");
  const meter = Object.assign(element("meter"), { min: 0, max: 1, value: certain });
  meter.setAttribute("aria-label", "geometric mean of the words' probabilities");
  sure.append(meter, percent(certain));
  line.append(sure, element("span", "", said));
  return line;
}

function drawFinding({ name, said, probability, threshold }) {
  const marks = { positive: "present", uncertain: "uncertain", negative: "absent" };
  const line = element("li", said ?? "silent", `${name}: ${marks[said] ?? "not mentioned"}`);
  if (probability === null) return line;
  const found = probability > threshold ? "found in the films" : "not found in the films";
  line.append(element("span", "likely", `, ${percent(probability)} (${found}; threshold ${percent(threshold)})`));
  return line;
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
