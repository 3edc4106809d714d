"use strict";
// The page of a server: it asks the same interface as any other client, and shows codes as they come.

const $ = (id) => document.getElementById(id);
const FIELDS = { picture: ["prompt", "n", "size", "seed"], caption: ["language"], document: ["beginning", "max_pictures", "document_seed"] };
const SAMPLING = ["temperature", "top_k", "top_p", "guidance_scale"];
let settings = null;   // what /settings says
let running = null;    // the AbortController of the request under way, with what it does

function headers() {
  // This Accept makes refusals events of the answer, which a browser does not report as failed loads.
  const all = { "Content-Type": "application/json", "Accept": "text/event-stream" };
  const token = sessionStorage.getItem("token");
  return token ? { ...all, "Authorization": `Bearer ${token}` } : all;
}

async function start() {
  settings = await (await fetch("/settings", { headers: headers() })).json();
  $("token-form").hidden = !settings.needs_token;
  $("main").hidden = Boolean(settings.needs_token);
  if (settings.needs_token) {
    $("model").textContent = sessionStorage.getItem("token") ? "That is another token." : "This server wants a token.";
    $("token").focus();
    return;
  }
  $("model").textContent = `${settings.name}, checkpoint ${settings.source}`;
  $("attribution").textContent = settings.attribution;
  const sizes = [settings.size_hr_px, settings.size_px].filter(Boolean);
  $("size").replaceChildren(...sizes.map((px) => new Option(`${px} px`, `${px}x${px}`)));
  const most = settings.limits.max_document_pictures;
  $("max_pictures").replaceChildren(...Array.from({ length: most + 1 }, (_, count) => new Option(most - count)));
  for (const option of [...$("n").options]) option.disabled = Number(option.value) > settings.limits.max_pictures;
  // At temperature 0 the pictures of one prompt are equal.
  $("n").value = settings.temperature === 0 || settings.limits.max_pictures < 4 ? "1" : "4";
  for (const name of ["temperature", "top_k", "guidance_scale"]) $(name).value = settings[name];
  $("top_p").value = 1;
  $("prompt").focus();
  loadPatches();
  fromAddress();
}

// The address keeps what was asked, so that its link draws the same picture.
function fromAddress() {
  const asked = new URLSearchParams(location.hash.slice(1)), mode = asked.get("mode") || "picture";
  if (!Object.hasOwn(FIELDS, mode)) return;
  for (const name of [...FIELDS[mode], ...SAMPLING]) if (asked.has(name)) take($(name), asked.get(name));
  if (![...asked.keys()].length) return;
  document.querySelector(`input[name=mode][value=${mode}]`).click();
  if (mode === "picture" && (asked.get("prompt") || "").trim()) drawPictures();
  else if (mode === "document" && (asked.get("beginning") || "").trim()) writeDocument();
}

// Gives a field the value of a link, if it may have it: an option of a select, a number within its bounds.
function take(field, value) {
  const before = field.value;
  field.value = value;
  const isPossible = field.matches("textarea") || (field.value === value && field.checkValidity() && !field.selectedOptions?.[0]?.disabled);
  if (!isPossible) field.value = before;
}

function toAddress(values) {
  history.replaceState(null, "", `#${new URLSearchParams(values)}`);
}

function sampling() {
  const values = {};
  for (const name of SAMPLING) {
    const field = $(name);
    if (!field.checkValidity()) throw new Error(`${field.parentElement.firstChild.textContent.trim()}: ${field.validationMessage}`);
    if (field.value !== "") values[name] = Number(field.value);
  }
  return values;
}

function readSeed(field) {
  const text = field.value.trim();
  if (!text) return crypto.getRandomValues(new Uint32Array(1))[0] >>> 1;
  if (!/^\d+$/.test(text) || !Number.isSafeInteger(Number(text))) throw new Error(`The seed is ${text}, but must be a whole number from 0 on`);
  return Number(text);
}

// Sends a request, and calls `each` with every event. Returns when the answer has ended.
async function ask(path, values, each) {
  const answer = await fetch(path, { method: "POST", headers: headers(), body: JSON.stringify(values), signal: running.signal });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    const parts = (text + value).split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const data = part.split("\n").find((line) => line.startsWith("data: "));
      if (!data || data === "data: [DONE]") continue;
      const event = JSON.parse(data.slice(6));
      if (event.error) throw new Error(event.error.message);
      each(event);
    }
  }
}

function showRunning() {
  $("status").textContent = `${running.what} ...${loading ? " (codes are shown once the server has made a picture of each)" : ""}`;
}

// Runs one request at a time: shows that it goes on, its end, or why it was refused.
async function run(what, work) {
  if (running) running.abort();
  const own = running = Object.assign(new AbortController(), { what });
  const began = performance.now();
  $("error").textContent = "";
  drawn = [];
  showRunning();
  $("stop").disabled = false;
  try {
    await work();
    $("status").textContent = `Done in ${((performance.now() - began) / 1000).toFixed(1)} s`;
  } catch (error) {
    if (running !== own) return;
    $("status").textContent = own.signal.aborted ? "Stopped" : "";
    if (!own.signal.aborted) $("error").textContent = error instanceof TypeError ? "The server does not answer." : error.message;
  } finally {
    if (running === own) {
      running = null;
      $("stop").disabled = true;
    }
  }
}

function sidesOf(high) {
  return [settings.num_codes, ...(high ? [settings.num_high_codes] : [])].map(Math.sqrt);
}

function drawPictures() {
  return run("Draws", async () => {
    const prompt = $("prompt").value;
    if (!prompt.trim()) throw new Error("Say what to draw.");
    const n = Number($("n").value), seed = readSeed($("seed")), size = $("size").value;
    const values = { prompt, n, seed, size, ...sampling() };
    toAddress({ mode: "picture", ...values });
    const high = size === `${settings.size_hr_px}x${settings.size_hr_px}`;
    const growing = Array.from({ length: n }, () => new Growing(prompt, sidesOf(high)));
    const grid = document.createElement("div");
    grid.className = "grid";
    grid.append(...growing.map((each) => each.figure));
    $("results").replaceChildren(grid);
    loadPatches();
    showRunning();
    await ask("/v1/images/generations", { ...values, stream: true, stream_codes: true }, (event) => {
      const picture = growing[event.index];
      if (event.type === "image_generation.codes") picture.add(event.start, event.codes);
      else if (event.type === "image_generation.completed") picture.finish(`data:image/png;base64,${event.b64_json}`, `seed ${event.seed}`);
    });
  });
}

let upload = "";  // the data URL of the picture to describe

function takeFile(file) {
  if (!file) return;
  $("error").textContent = "";
  if (!file.type.startsWith("image/")) {
    $("error").textContent = `${file.name} is no picture.`;
    return;
  }
  if (file.size * 4 / 3 > settings.limits.max_body_bytes - 1000) {
    $("error").textContent = `${file.name} has ${file.size} bytes; the server takes about ${Math.floor(settings.limits.max_body_bytes * 3 / 4)}.`;
    return;
  }
  const reader = new FileReader();
  reader.onload = () => {
    upload = reader.result;
    $("preview").src = upload;
    $("preview").alt = file.name;
    $("preview").hidden = false;
    describe();
  };
  reader.readAsDataURL(file);
}

function describe() {
  return run("Describes", async () => {
    if (!upload) throw new Error("Give a picture to describe.");
    const answer = document.createElement("p");
    answer.className = "answer";
    $("results").replaceChildren(answer);
    const content = [{ type: "image_url", image_url: { url: upload } }];
    const values = { model: settings.name, messages: [{ role: "user", content }], language: $("language").value, stream: true };
    await ask("/v1/chat/completions", values, (event) => { answer.textContent += event.choices[0].delta.content || ""; });
  });
}

function writeDocument() {
  return run("Writes", async () => {
    const beginning = $("beginning").value;
    if (!beginning.trim()) throw new Error("Say how the document begins.");
    const seed = readSeed($("document_seed")), max_pictures = Number($("max_pictures").value);
    toAddress({ mode: "document", beginning, document_seed: seed, max_pictures, ...sampling() });
    const page = document.createElement("div");
    page.className = "document";
    page.append(beginning);
    $("results").replaceChildren(page);
    loadPatches();
    showRunning();
    const values = { model: settings.name, messages: [{ role: "user", content: beginning }], stream: true, stream_codes: true, seed, max_pictures, ...sampling() };
    let picture = null, first = 0;
    await ask("/v1/chat/completions", values, (event) => {
      const { content, mars_codes: codes } = event.choices[0].delta;
      if (codes) {
        if (!picture) {
          picture = new Growing(`picture in ${beginning}`, sidesOf(false));
          first = codes.start;
          page.append(picture.figure);
        }
        picture.add(codes.start - first, codes.codes);
      } else if (content) {
        const url = content.match(/^!\[picture \d+\]\((data:[^)]*)\)$/);
        if (url && picture) picture.finish(url[1], "");
        else page.append(content);
        if (url) picture = null;
      }
    });
  });
}

const ACTIONS = { picture: drawPictures, caption: describe, document: writeDocument };
for (const [id, action] of Object.entries(ACTIONS)) {
  $(id).addEventListener("submit", (event) => { event.preventDefault(); action(); });
}
for (const field of document.querySelectorAll("textarea")) {
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); field.form.requestSubmit(); }
  });
}
for (const choice of document.querySelectorAll("input[name=mode]")) {
  choice.addEventListener("change", () => {
    for (const id of Object.keys(ACTIONS)) $(id).hidden = id !== choice.value;
    $("error").textContent = "";
  });
}
$("stop").addEventListener("click", () => running?.abort());
document.addEventListener("keydown", (event) => { if (event.key === "Escape") running?.abort(); });
$("file").addEventListener("change", () => takeFile($("file").files[0]));
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    if ($("caption").hidden) return;
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") takeFile(event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files][0];
  if (file && !$("caption").hidden) takeFile(file);
});
$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", $("token").value.trim());
  start();
});
window.addEventListener("hashchange", () => { if (settings && !settings.needs_token) fromAddress(); });
start().catch(() => { $("model").textContent = "The server does not answer; load the page again."; });
