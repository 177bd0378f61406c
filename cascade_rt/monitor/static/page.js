// The page: keeps a connection, stores what comes, draws once per screen refresh, and passes on what is asked for.
import {
  LEFT, RIGHT, Raster, Ring, Surface, drawLatency, drawNoise, drawRaster, drawRate, drawTraces, glyph, number, readColors,
} from "/charts.js";

const $ = (id) => document.getElementById(id);
const DFF = 1, PROB = 2, RATE = 3, RASTER = 4;
const MAX_CHOSEN = 16;

const state = {
  info: null, status: null, neurons: [], lookahead: null, dff: null, prob: null, rate: null, raster: null, epoch: -1,
  events: [], nEvents: 0, paused: false, frozen: 0, cursor: null, control: false, controlPossible: false, chosen: false,
  seconds: 20, dirty: true, dirtyState: true, live: false, warning: "",
};
const stats = window.__stats = {
  fps: 0, drawsPerS: 0, updatesPerS: 0, updates: 0, dropped: 0, drawMs: 0, newestFrame: -1, connected: false, neurons: [],
  rows: 0, errors: 0,
};
window.addEventListener("error", (event) => {
  stats.errors++;
  stats.lastError = event.message;
});

// ------------------------------------------------------------------------------------------------ connection

let socket = null, token = readToken(), retry = 500, nextNumber = null;

/** The token comes behind the # of the address, which no server sees; it is taken out of the address bar at once. */
function readToken() {
  const match = /(?:^#|&)token=([^&]*)/.exec(location.hash);
  if (match) {
    history.replaceState(null, "", location.pathname);
    try {
      sessionStorage.setItem("token", decodeURIComponent(match[1]));
    } catch { /* a browser without storage asks again */ }
    return decodeURIComponent(match[1]);
  }
  try {
    return sessionStorage.getItem("token") || "";
  } catch {
    return "";
  }
}

function connect() {
  socket = new WebSocket(`ws://${location.host}/live`);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => send({ type: "hello", token });
  socket.onmessage = (message) => {
    if (typeof message.data === "string") hear(JSON.parse(message.data));
    else takeUpdate(message.data);
  };
  socket.onclose = () => {
    state.live = stats.connected = false;
    nextNumber = null;
    state.dirtyState = true;
    setTimeout(connect, retry);
    retry = Math.min(retry * 1.6, 5000);
  };
}

function send(message) {
  if (socket && socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}

function hear(message) {
  state.dirtyState = true;
  switch (message.type) {
    case "welcome":
      state.live = stats.connected = true;
      retry = 500;
      state.control = message.control;
      state.controlPossible = message.control_possible;
      state.epoch = -1;
      state.events = [];
      state.nEvents = 0;
      if (message.token === "wrong") {
        forgetToken();
        warn("That token is not the right one.");
      } else if (message.control) warn("");
      state.rulesShown = null;
      break;
    case "info":
      begin(message);
      break;
    case "selected":
      state.neurons = stats.neurons = message.neurons;
      state.lookahead = message.lookahead;
      state.dff = state.info && state.info.has_dff ? new Ring(message.neurons.length, state.capacity) : null;
      state.prob = new Ring(message.neurons.length, state.capacity);
      state.dirty = true;
      showChosen();
      break;
    case "busiest":
      if (message.neurons.length) select(message.neurons);
      break;
    case "picked":
      if (message.neuron !== null) toggle(message.neuron);
      break;
    case "status":
      state.status = message;
      if (!state.chosen && state.info && message.last_frame > 3 * state.info.frame_rate_hz) {
        state.chosen = true;  // nobody has chosen yet: show where something happens
        send({ type: "busiest", count: narrow() ? 4 : 6 });
      }
      break;
    case "events":
      state.nEvents += message.events.length;
      state.events = [...state.events, ...message.events].slice(-200);
      state.dirty = true;
      break;
    case "accepted":
      warn(message.action === "set" ? `${message.rule}: threshold ${message.threshold} sent` : `${message.rule}: ${message.action} sent`);
      break;
    case "refused":
      if (/wrong token|needs the token/.test(message.why)) forgetToken();
      warn(`Refused: ${message.why}`);
  }
}

function forgetToken() {
  token = "";
  try {
    sessionStorage.removeItem("token");
  } catch { /* nothing was stored */ }
}

function narrow() {
  return window.innerWidth < 700;
}

/** A run begins, or counts its frames anew. */
function begin(info) {
  const again = state.info && state.info.stream === info.stream && state.info.n_neurons === info.n_neurons;
  state.info = info;
  state.epoch = info.epoch;
  state.capacity = Math.max(16, Math.ceil(info.history_s * info.frame_rate_hz));
  state.dff = state.prob = null;
  state.rate = new Ring(1, state.capacity);
  state.raster = new Raster(info.raster_rows, state.capacity);
  state.raster.color(colors);
  state.cursor = null;
  state.frozen = 0;
  stats.rows = info.raster_rows;
  stats.newestFrame = -1;
  const lookahead = $("lookahead");
  lookahead.replaceChildren(...info.lookaheads.map((n) => {
    const option = document.createElement("option");
    option.value = n;
    option.textContent = `${n} ahead = ${number((1000 * n) / info.frame_rate_hz)} ms`;
    return option;
  }));
  const wanted = info.lookaheads.includes(state.lookahead) ? state.lookahead : info.lookaheads[0];
  lookahead.value = wanted;
  const kept = again ? state.neurons.filter((n) => n < info.n_neurons) : [];
  select(kept.length ? kept : [...Array(Math.min(narrow() ? 4 : 6, info.n_neurons)).keys()], wanted);
  const perRow = info.neurons_per_row;
  $("rows-note").textContent = `${info.n_neurons.toLocaleString("en")} neurons` +
    (perRow > 1 ? `, ${perRow} to a row, of which the highest shows` : "") + `; full shade: ${info.raster_top_hz} Hz; click to choose`;
  state.dirty = true;
}

function takeUpdate(buffer) {
  const head = new DataView(buffer), blocks = head.getUint8(3), n = head.getUint32(4, true);
  if (nextNumber !== null && n > nextNumber) stats.dropped += n - nextNumber;
  nextNumber = n + 1;
  stats.updates++;
  counted.updates++;
  if (head.getUint32(8, true) !== state.epoch) return;
  let at = 24;
  for (let i = 0; i < blocks; i++) {
    const kind = head.getUint8(at), rows = head.getUint16(at + 2, true), count = head.getUint32(at + 4, true);
    const first = head.getFloat64(at + 8, true);
    at += 16;
    const size = rows * count * (kind === RASTER ? 1 : 4);
    const values = kind === RASTER ? new Uint8Array(buffer, at, rows * count) : new Float32Array(buffer, at, rows * count);
    at += size + ((8 - (size % 8)) % 8);
    const target = kind === DFF ? state.dff : kind === PROB ? state.prob : kind === RATE ? state.rate : state.raster;
    const expected = target && (kind === RASTER ? target.ring.rows : target.rows);
    const taken = state.paused ? Math.min(count, state.frozen - first) : count;  // what is frozen may still be filled in
    if (rows === expected && taken > 0) {
      target.write(first, values, taken);
      state.dirty = true;
    }
  }
  stats.newestFrame = newest();
}

function newest() {
  if (state.paused) return state.frozen - 1;
  return Math.max(state.dff ? state.dff.stop : 0, state.rate ? state.rate.stop : 0) - 1;
}

// ------------------------------------------------------------------------------------------------- choosing

function select(neurons, lookahead = state.lookahead, fresh = false) {
  send({ type: "select", neurons: neurons.slice(0, MAX_CHOSEN), lookahead, fresh });
}

function toggle(neuron) {
  const without = state.neurons.filter((n) => n !== neuron);
  select(without.length < state.neurons.length ? without : [...state.neurons, neuron].slice(-MAX_CHOSEN));
}

function showChosen() {
  if (document.activeElement !== $("neurons")) $("neurons").value = state.neurons.join(", ");
}

function readNumbers(text) {
  const found = [];
  for (const part of text.split(/[\s,;]+/).filter(Boolean)) {
    const match = /^(\d+)(?:[-–](\d+))?$/.exec(part);
    if (!match) return null;
    for (let n = +match[1]; n <= +(match[2] || match[1]) && found.length <= MAX_CHOSEN; n++) found.push(n);
  }
  return [...new Set(found)];
}

$("choose").addEventListener("submit", (event) => {
  event.preventDefault();
  const wanted = readNumbers($("neurons").value), total = state.info ? state.info.n_neurons : 0;
  if (!wanted || !wanted.length || wanted.some((n) => n >= total)) {
    return warn(`Neurons: expected numbers from 0 to ${total - 1}, such as 3, 17, 40-42.`);
  }
  if (wanted.length > MAX_CHOSEN) warn(`The first ${MAX_CHOSEN} neurons are shown.`);
  else warn("");
  state.chosen = true;
  $("neurons").blur();
  select(wanted);
});
$("busiest").addEventListener("click", () => {
  state.chosen = true;
  send({ type: "busiest", count: narrow() ? 4 : 6 });
});
$("window").addEventListener("change", () => {
  state.seconds = +$("window").value;
  state.dirty = true;
});
$("lookahead").addEventListener("change", () => select(state.neurons, +$("lookahead").value, true));

const rasterCanvas = $("c-raster");
rasterCanvas.addEventListener("click", (event) => {
  const bounds = rasterCanvas.getBoundingClientRect();
  pickRow(Math.floor(((event.clientY - bounds.top) / (bounds.height - 18)) * stats.rows));
});
rasterCanvas.addEventListener("keydown", (event) => {
  const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 20, PageUp: -20 }[event.key];
  if (step && stats.rows) {
    state.cursor = Math.min(stats.rows - 1, Math.max(0, (state.cursor ?? -1) + step));
    state.dirty = true;
  } else if (event.key === "Enter" && state.cursor !== null) pickRow(state.cursor);
  else if (event.key === "Delete") select(state.neurons.slice(0, -1));
  else return;
  event.preventDefault();
});
rasterCanvas.addEventListener("blur", () => {
  state.cursor = null;
  state.dirty = true;
});

function pickRow(row) {
  if (row < 0 || row >= stats.rows) return;
  state.chosen = true;
  send({ type: "pick", row });
}

// -------------------------------------------------------------------------------------------------- controls

$("pause").addEventListener("click", () => setPaused(!state.paused));
document.addEventListener("keydown", (event) => {
  const busy = /^(INPUT|SELECT|BUTTON|TEXTAREA)$/.test(event.target.tagName);
  if (event.key === " " && !busy && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    setPaused(!state.paused);
  }
});

function setPaused(paused) {
  state.frozen = newest() + 1;
  state.paused = paused;
  $("pause").setAttribute("aria-pressed", paused);
  $("pause").textContent = paused ? "Resume" : "Pause";
  if (!paused && state.info) select(state.neurons, state.lookahead, true);  // what was missed meanwhile
  state.dirtyState = true;
}

$("theme").addEventListener("click", () => {
  const dark = document.documentElement.dataset.theme === "dark";
  try {
    localStorage.setItem("theme", dark ? "light" : "dark");
  } catch { /* not remembered then */ }
  setTheme(dark ? "light" : "dark");
});

let colors = null;
function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  colors = readColors();
  if (state.raster) state.raster.color(colors);
  state.dirty = state.dirtyState = true;
}
const system = matchMedia("(prefers-color-scheme: dark)");
let remembered = null;
try {
  remembered = localStorage.getItem("theme");
} catch { /* the system decides */ }
setTheme(remembered || (system.matches ? "dark" : "light"));
system.addEventListener("change", (event) => {
  if (!remembered) setTheme(event.matches ? "dark" : "light");
});

$("unlock").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("token").value.trim();
  $("token").value = "";
  try {
    sessionStorage.setItem("token", token);
  } catch { /* asked for again after a reload */ }
  if (state.live) send({ type: "hello", token });
});

$("disarm-all").addEventListener("click", () => send({ type: "control", rule: "*", action: "disarm" }));

function warn(text) {
  state.warning = text;
  state.dirtyState = true;
}

/** Rules as the run tells them; built anew only when something but their state changes, so that typing is not lost. */
function showRules(rules) {
  const list = $("rules"), key = JSON.stringify([state.control, rules.map((rule) => [rule.rule, rule.threshold == null])]);
  if (state.rulesShown !== key) {
    state.rulesShown = key;
    list.replaceChildren(...rules.map((rule) => ruleRow(rule)));
  }
  rules.forEach((rule, i) => {
    const row = list.children[i], armed = rule.armed === true;
    row.querySelector(".armed").textContent = armed ? "● armed" : "○ disarmed";
    const button = row.querySelector("button.arm");
    if (button) {
      button.textContent = armed ? "Disarm" : "Arm";
      button.dataset.action = armed ? "disarm" : "arm";
    }
    const input = row.querySelector("input");
    if (input && document.activeElement !== input && input.dataset.known !== String(rule.threshold)) {
      input.value = input.dataset.known = String(rule.threshold);
    }
    const value = row.querySelector(".threshold"), sign = rule.compare === "below" ? "<" : ">";
    if (value) value.textContent = rule.threshold == null ? "" : `${sign} ${number(rule.threshold)}`;
  });
}

function ruleRow(rule) {
  const row = element("li"), name = element("span", rule.rule, "grow");
  row.title = rule.what || "";
  row.append(name, element("span", "", "armed"));
  if (!state.control) {
    row.append(element("span", "", "threshold far"));
    return row;
  }
  if (rule.threshold != null) {
    const input = element("input");
    Object.assign(input, { type: "number", step: "any" });
    input.setAttribute("aria-label", `threshold of ${rule.rule}`);
    const set = element("button", "Set");
    set.type = "button";
    const change = () => {
      const threshold = Number(input.value);
      if (input.value === "" || !Number.isFinite(threshold)) return warn("Threshold: expected a number.");
      send({ type: "control", rule: rule.rule, action: "set", threshold });
    };
    set.addEventListener("click", change);
    input.addEventListener("keydown", (event) => event.key === "Enter" && change());
    row.append(input, set);
  }
  const arm = element("button", "Arm", "arm");
  arm.type = "button";
  arm.setAttribute("aria-label", `arm or disarm ${rule.rule}`);
  arm.addEventListener("click", () => send({ type: "control", rule: rule.rule, action: arm.dataset.action }));
  row.append(arm);
  return row;
}

function element(tag, text = "", className = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

let eventsShown = 0;
function showEvents() {
  if (eventsShown === state.nEvents) return;
  eventsShown = state.nEvents;
  $("events").replaceChildren(...state.events.slice(-60).reverse().map((event) => {
    const row = element("li"), limit = event.data && event.data.threshold;
    row.append(element("span", `${glyph(event.kind)} ${event.kind}`, `kind-${event.kind}`));
    row.append(element("span", event.rule, "grow"));
    const value = event.value === null ? "" : number(event.value) + (typeof limit === "number" ? ` (${number(limit)})` : "");
    row.append(element("span", value, "far"), element("span", `frame ${event.frame}`, "far"));
    return row;
  }));
}

// ------------------------------------------------------------------------------------------------- the state

function tile(id, value, note = "", bad = false) {
  const box = $(id);
  box.dataset.kind = bad ? "bad" : "";
  setText(box.querySelector(".value"), value);
  setText(box.querySelector(".note"), note || "\u00a0");
}

function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

const whole = (n) => (n === null || n === undefined ? "–" : n.toLocaleString("en"));

function pill() {
  const { status, info } = state;
  if (!state.live) return state.status && state.status.ended ? ["done", `run ended: ${state.status.ended}`] : ["bad", "not connected"];
  if (!info || !status) return ["wait", "waiting for a run"];
  if (status.ended) return ["done", `run ended: ${status.ended}`];
  if (state.paused) return ["wait", "paused"];
  if (status.silent_s > 2) return ["bad", `no frames for ${Math.round(status.silent_s)} s`];
  if (status.calibrating) return ["wait", `calibrating ${Math.round(100 * status.calibration_progress)} %`];
  if (status.baseline_filling) return ["wait", "baseline fills"];
  return ["good", "running"];
}

function showState() {
  const { status, info } = state, [kind, text] = pill();
  $("state").dataset.kind = kind;
  setText($("state"), text);
  showEvents();
  setText($("events-note"), state.nEvents ? Object.entries((status && status.events) || {}).map(([k, n]) => `${n} ${k}`).join(", ") || `${state.nEvents}` : "none yet");
  const rules = (status && status.rules) || [];
  showRules(rules);
  setText($("rules-note"), rules.length ? (state.control ? "control: on" : state.controlPossible ? "control: locked" : "shown only") : "no rules");
  $("disarm-all").hidden = !(state.control && rules.length);
  $("unlock").hidden = state.control || !(state.controlPossible || /needs the token/.test(state.warning));
  setText($("warning"), (status && status.control_problem) || state.warning || ((status && status.warnings) || []).slice(-1)[0] || "\u00a0");
  if (!info || !status) return;
  setText($("stream"), info.stream || "run");
  setText($("model"), `${info.model} · ${whole(info.n_neurons)} neurons · ${number(info.frame_rate_hz)} Hz`);
  document.title = `${info.stream || "run"} · cascade-rt`;
  const { latency = {}, frames = {}, rejected = {} } = status, n = latency.count || 0;
  tile("t-latency", latency.p50_ms == null ? "–" : `${number(latency.p50_ms)} ms`, latency.p99_ms == null ? "" : `p99 ${number(latency.p99_ms)} ms`);
  tile("t-misses", latency.deadline_ms ? whole(latency.deadline_misses) : "–",
    latency.deadline_ms ? `of ${whole(n)}, ${number(latency.deadline_ms)} ms` : "no deadline: a file", latency.deadline_misses > 0.01 * n);
  tile("t-frames", whole(frames.processed ?? (status.last_frame == null ? null : status.last_frame + 1)),
    status.load == null ? `newest ${whole(status.last_frame)}` : `load ${Math.round(100 * status.load)} %`);
  const lost = (frames.lost || 0) + (status.overrun || 0);
  tile("t-lost", whole(lost), frames.gaps ? `in ${frames.gaps} gap${frames.gaps > 1 ? "s" : ""}` : status.overrun ? `${status.overrun} too fast for us` : "frames", lost > 0);
  tile("t-odd", frames.duplicate == null ? "–" : `${whole(frames.duplicate)} · ${whole(frames.late)}`, frames.restarts ? `${frames.restarts} restarts` : "frames");
  const reasons = Object.entries(rejected), bad = reasons.reduce((sum, [, count]) => sum + count, 0);
  tile("t-rejected", whole(bad), reasons.length ? reasons.map(([k, c]) => `${k} ${c}`).join(", ") : "messages", bad > 0);
  tile("t-queue", whole(status.queue ?? null), status.sink_dropped ? `${status.sink_dropped} results not taken` : "frames wait", status.sink_dropped > 0);
  const chosen = (info.integration || []).find(([lookahead]) => lookahead === state.lookahead);
  tile("t-integration", chosen ? `${number(chosen[2])} ms` : "–",
    chosen ? `${chosen[0]} ahead = ${number((1000 * chosen[0]) / info.frame_rate_hz)} ms` : "");
  drawLatency(surfaces.latency, status, info, colors);
  drawNoise(surfaces.noise, status, info, colors);
  setText($("latency-note"), latency.recent ? "solid: last 15 s; pale: whole run; √ scale" : "");
  const noise = status.noise || {};
  setText($("noise-note"), noise.median == null ? "%/√Hz" : `median ${number(noise.median)} %/√Hz` +
    (info.noise_range ? `; ${whole(noise.outside)} outside` : "") + (noise.unknown ? `; ${noise.unknown} without` : ""));
}

// --------------------------------------------------------------------------------------------------- drawing

const surfaces = Object.fromEntries(["traces", "rate", "raster", "latency", "noise"].map((name) =>
  [name, new Surface($(`c-${name}`), () => { state.dirty = state.dirtyState = true; })]));

function view() {
  const { info, seconds } = state, frames = Math.max(2, Math.round(Math.min(seconds, info.history_s) * info.frame_rate_hz));
  const stop = newest() + 1;
  return { begin: stop - frames, stop, frames, rate: info.frame_rate_hz };
}

function draw() {
  const { info } = state;
  if (!info) return;
  const now = view();
  drawTraces(surfaces.traces, state, now, colors);
  drawRate(surfaces.rate, state.rate, now, colors);
  drawRaster(surfaces.raster, state.raster, {
    neurons: state.neurons, perRow: info.neurons_per_row, nNeurons: info.n_neurons, cursor: state.cursor,
  }, now, colors);
}

const counted = { refreshes: 0, draws: 0, updates: 0, drawMs: 0, since: performance.now() };

function refresh(now) {
  counted.refreshes++;
  const started = performance.now();
  if (state.dirty) {
    state.dirty = false;
    draw();
    counted.draws++;
    counted.drawMs += performance.now() - started;
  }
  if (state.dirtyState) {
    state.dirtyState = false;
    showState();
  }
  const passed = now - counted.since;
  if (passed >= 1000) {
    Object.assign(stats, {
      fps: (1000 * counted.refreshes) / passed, drawsPerS: (1000 * counted.draws) / passed,
      updatesPerS: (1000 * counted.updates) / passed, drawMs: counted.draws ? counted.drawMs / counted.draws : 0,
    });
    Object.assign(counted, { refreshes: 0, draws: 0, updates: 0, drawMs: 0, since: now });
    const skipped = state.status && state.status.feed_skipped;
    setText($("stats"), `this page: ${stats.fps.toFixed(0)} refreshes/s · ${stats.updatesPerS.toFixed(0)} updates/s · ` +
      `${stats.dropped} dropped · ${stats.drawMs.toFixed(1)} ms to draw` + (skipped ? ` · ${skipped} not handed on by the run` : ""));
  }
  requestAnimationFrame(refresh);
}

// ---------------------------------------------------------------------------------------------------- saving

function save(blob, ending) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  const name = ((state.info && state.info.stream) || "run").replace(/[^\w.-]+/g, "_");
  link.download = `${name}_frame${newest()}.${ending}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

$("csv").addEventListener("click", () => {
  if (!state.info) return;
  const { begin, stop, rate } = view(), { neurons, dff, prob } = state;
  const head = ["frame", "seconds", ...neurons.flatMap((n) => [`dff_${n}`, `spike_prob_${n}`]), "population_rate_hz"];
  const lines = [head.join(",")];
  const text = (value) => (Number.isNaN(value) ? "" : String(Math.fround(value)));
  for (let f = Math.max(begin, 0); f < stop; f++) {
    const cells = [f, (f / rate).toFixed(4)];
    neurons.forEach((_, row) => cells.push(dff ? text(dff.at(f, row)) : "", prob ? text(prob.at(f, row)) : ""));
    cells.push(text(state.rate.at(f, 0)));
    lines.push(cells.join(","));
  }
  save(new Blob([lines.join("\n") + "\n"], { type: "text/csv" }), "csv");
});

/** Puts the panels, with their titles and numbers, where they are on the page. */
function picture() {
  const main = $("main"), bounds = main.getBoundingClientRect(), ratio = 2, top = 44;
  const canvas = document.createElement("canvas"), style = getComputedStyle(document.body);
  canvas.width = bounds.width * ratio;
  canvas.height = (bounds.height + top + 10) * ratio;
  const c = canvas.getContext("2d");
  c.scale(ratio, ratio);
  c.fillStyle = style.backgroundColor;
  c.fillRect(0, 0, canvas.width, canvas.height);
  const write = (node, size, weight, limit) => {
    const box = node.getBoundingClientRect(), own = getComputedStyle(node);
    c.font = `${weight} ${size}px system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif`;
    c.fillStyle = own.color;
    c.textBaseline = "middle";
    c.fillText(node.innerText.replace(/\s+/g, " "), box.left - bounds.left, box.top - bounds.top + top + box.height / 2, limit || box.width + 4);
  };
  c.font = "650 15px system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif";
  c.fillStyle = colors.text;
  c.fillText(`${$("stream").textContent} · ${$("model").textContent} · ${$("state").textContent} · ${new Date().toISOString()}`, 16, 26, bounds.width - 32);
  for (const box of main.querySelectorAll(".tile, .panel")) {
    const r = box.getBoundingClientRect();
    c.fillStyle = colors.panel;
    c.strokeStyle = colors.edge;
    c.beginPath();
    c.roundRect(r.left - bounds.left, r.top - bounds.top + top, r.width, r.height, 8);
    c.fill();
    c.stroke();
  }
  for (const node of main.querySelectorAll(".tile h2, .tile .note, .legend:not(:has(.key)), .legend .key, .list li span")) {
    const list = node.closest(".list");
    if (list && node.getBoundingClientRect().bottom > list.getBoundingClientRect().bottom) continue;
    write(node, 12, 400);
  }
  for (const node of main.querySelectorAll(".tile .value")) write(node, 20, 600);
  for (const node of main.querySelectorAll(".panel .head h2")) write(node, 14, 650);
  for (const node of main.querySelectorAll("canvas")) {
    const r = node.getBoundingClientRect();
    c.drawImage(node, r.left - bounds.left, r.top - bounds.top + top, r.width, r.height);
  }
  return canvas;
}

$("png").addEventListener("click", () => picture().toBlob((blob) => save(blob, "png"), "image/png"));

connect();
requestAnimationFrame(refresh);
