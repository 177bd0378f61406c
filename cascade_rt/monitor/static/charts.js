// Drawing, and the store of what is drawn. Nothing here knows the connection.

/** The newest values of consecutive frames, one frame after another. */
export class Ring {
  constructor(rows, capacity, ArrayType = Float32Array, empty = NaN) {
    this.rows = rows;
    this.capacity = capacity;
    this.empty = empty;
    this.values = new ArrayType(rows * capacity).fill(empty);
    this.begin = 0;
    this.stop = 0;
  }

  get first() {
    return Math.max(this.begin, this.stop - this.capacity);
  }

  write(first, values, count) {
    const { rows, capacity } = this;
    if (this.stop === this.begin || first < this.first) this.begin = this.stop = first;
    for (let f = Math.max(this.stop, first - capacity); f < first; f++) {
      const at = (f % capacity) * rows;
      this.values.fill(this.empty, at, at + rows);
    }
    for (let i = 0; i < count; i++) {
      this.values.set(values.subarray(i * rows, (i + 1) * rows), ((first + i) % capacity) * rows);
    }
    this.stop = Math.max(this.stop, first + count);
  }

  at(frame, row) {
    if (frame < this.first || frame >= this.stop) return this.empty;
    return this.values[(frame % this.capacity) * this.rows + row];
  }
}

/** A canvas that is as sharp as the screen. */
export class Surface {
  constructor(canvas, onResize) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false });
    new ResizeObserver(onResize).observe(canvas);
    this.fit();
  }

  fit() {
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    this.width = this.canvas.clientWidth;
    this.height = this.canvas.clientHeight;
    const w = Math.round(this.width * ratio), h = Math.round(this.height * ratio);
    if (w && h && (this.canvas.width !== w || this.canvas.height !== h)) {
      this.canvas.width = w;
      this.canvas.height = h;
    }
    this.ratio = ratio;
  }

  begin(colors) {
    this.fit();  // only here, right before it is drawn: changing the size empties the canvas
    const c = this.context;
    c.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    c.fillStyle = colors.panel;
    c.fillRect(0, 0, this.width, this.height);
    c.font = "11.5px system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif";
    c.textBaseline = "middle";
    c.lineWidth = 1;
    return c;
  }
}

/** Space for numbers beside the pictures (px); the same in all that share a time axis. */
export const LEFT = 46, RIGHT = 8;

export function readColors() {
  const style = getComputedStyle(document.documentElement);
  const names = ["panel", "text", "quiet", "grid", "dff", "spikes", "rate", "bar", "all", "band", "band-edge", "bad",
    "edge", "undefined", "map-0", "map-1", "map-2"];
  return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

/** A scale that grows at once and shrinks slowly, so that the picture does not jump. */
export class Scale {
  constructor(least) {
    this.least = least;
    this.value = least;
  }

  follow(wanted) {
    const target = nice(Math.max(wanted, this.least));
    if (target >= this.value) {
      this.value = target;
      this.since = 0;
    } else if (++this.since > 90) {
      this.value = target;
    }
    return this.value;
  }
}

function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10].find((step) => step * power >= value * 0.9999) * power;
}

export function number(value, digits = 3) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (value === 0) return "0";
  return Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(digits)));
}

function timeAxis(c, view, width, height, colors, labelled) {
  const seconds = view.frames / view.rate, plot = width - LEFT - RIGHT;
  const step = seconds > 30 ? 10 : seconds > 12 ? 5 : 2;
  c.fillStyle = colors.quiet;
  c.strokeStyle = colors.grid;
  c.beginPath();
  for (let s = 0; s <= seconds + 1e-6; s += step) {
    const x = Math.round(LEFT + plot * (1 - s / seconds)) + 0.5;
    c.moveTo(x, 0);
    c.lineTo(x, height - (labelled ? 16 : 0));
    if (labelled) {
      c.textAlign = s === 0 ? "right" : s >= seconds - 1e-6 ? "left" : "center";
      c.fillText(s === 0 ? "now" : `−${s} s`, s === 0 ? width - RIGHT : x, height - 7);
    }
  }
  c.stroke();
}

/** Line through frames [view.begin, view.stop) of a row; where there are more frames than pixels, their extent. */
function line(c, ring, row, view, width, toY) {
  const plot = width - LEFT - RIGHT, perPixel = view.frames / plot;
  c.beginPath();
  let down = false;
  if (perPixel <= 1.5) {
    for (let f = Math.max(view.begin, ring.first); f < Math.min(view.stop, ring.stop); f++) {
      const value = ring.at(f, row);
      if (Number.isNaN(value)) {
        down = false;
        continue;
      }
      const x = LEFT + (f + 0.5 - view.begin) / perPixel, y = toY(value);
      if (down) c.lineTo(x, y);
      else c.moveTo(x, y);
      down = true;
    }
  } else {
    for (let x = 0; x < plot; x++) {
      const [low, high] = extent(ring, row, view.begin + Math.floor(x * perPixel), view.begin + Math.floor((x + 1) * perPixel));
      if (low > high) {
        down = false;
        continue;
      }
      if (!down) c.moveTo(LEFT + x, toY(low));
      c.lineTo(LEFT + x, toY(low));
      c.lineTo(LEFT + x, toY(high));
      down = true;
    }
  }
  c.stroke();
}

function area(c, ring, row, view, width, base, toY) {
  const plot = width - LEFT - RIGHT, perPixel = view.frames / plot;
  const step = Math.max(1, perPixel);
  c.beginPath();
  for (let f = Math.max(view.begin, ring.first); f < Math.min(view.stop, ring.stop);) {
    const next = Math.max(f + 1, Math.floor(f + step));
    const high = perPixel <= 1 ? ring.at(f, row) : extent(ring, row, f, next)[1];
    if (high > 0) {
      const x = LEFT + (f - view.begin) / perPixel, y = toY(high);
      c.rect(x, y, Math.max(1, (next - f) / perPixel - (perPixel < 0.3 ? 0.6 : 0)), base - y);
    }
    f = next;
  }
  c.fill();
}

function extent(ring, row, begin, stop) {
  let low = Infinity, high = -Infinity;
  for (let f = Math.max(begin, ring.first); f < Math.min(stop, ring.stop); f++) {
    const value = ring.at(f, row);
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return [low, high];
}

const scales = { high: new Scale(0.2), low: new Scale(0.1), prob: new Scale(0.2), rate: new Scale(0.5) };

export function drawTraces(surface, data, view, colors) {
  const c = surface.begin(colors), { width, height } = surface, { neurons, dff, prob } = data;
  timeAxis(c, view, width, height, colors, true);
  if (!neurons.length || !(dff || prob)) {
    c.fillStyle = colors.quiet;
    c.textAlign = "center";
    c.fillText(neurons.length ? "waiting for frames" : "no neurons chosen", width / 2, height / 2);
    return;
  }
  let top = 0, bottom = 0, most = 0;
  for (let row = 0; row < neurons.length; row++) {
    if (dff) {
      const [low, high] = extent(dff, row, view.begin, view.stop);
      top = Math.max(top, high);
      bottom = Math.max(bottom, -low);
    }
    if (prob) most = Math.max(most, extent(prob, row, view.begin, view.stop)[1]);
  }
  const high = scales.high.follow(top), low = scales.low.follow(bottom), probTop = scales.prob.follow(most);
  const each = (height - 20) / neurons.length, share = dff ? 0.6 : 0;
  for (let row = 0; row < neurons.length; row++) {
    const y0 = row * each + 3, y1 = y0 + share * (each - 5), y2 = y0 + each - 5;
    const toDff = (v) => y1 - ((v + low) / (high + low)) * (y1 - y0);
    const toProb = (v) => y2 - Math.min(1, v / probTop) * (y2 - y1 - 3);
    if (row) {
      c.fillStyle = colors.edge;
      c.fillRect(0, Math.round(row * each), width, 1);
    }
    c.fillStyle = colors.grid;
    if (dff) c.fillRect(LEFT, Math.round(toDff(0)), width - LEFT - RIGHT, 1);
    c.fillRect(LEFT, Math.round(y2), width - LEFT - RIGHT, 1);
    if (dff) {
      c.strokeStyle = colors.dff;
      c.lineWidth = 1.4;
      c.lineJoin = "round";
      line(c, dff, row, view, width, toDff);
      c.lineWidth = 1;
    }
    if (prob) {
      c.fillStyle = colors.spikes;
      area(c, prob, row, view, width, y2, toProb);
    }
    c.textAlign = "right";
    c.fillStyle = colors.text;
    c.fillText(String(neurons[row]), LEFT - 6, y0 + 7);
  }
  drawEvents(c, data.events, view, width, height - 18, colors);
  if (each > 44) {  // the scale is the same in all rows
    if (dff) label(c, `to ${number(high)}`, LEFT + 2, 11, colors);
    label(c, `to ${number(probTop)}`, LEFT + 2, share * (each - 5) + 13, colors);
  }
}

function label(c, text, x, y, colors) {
  c.textAlign = "left";
  c.fillStyle = colors.panel;
  c.fillRect(x, y - 7, c.measureText(text).width + 4, 14);
  c.fillStyle = colors.quiet;
  c.fillText(text, x + 2, y);
}

const GLYPHS = { stimulate: "▼", sham: "▽", suppressed: "×", armed: "●", disarmed: "○", changed: "◇", fault: "▲" };

export function glyph(kind) {
  return GLYPHS[kind] || "·";
}

function drawEvents(c, events, view, width, height, colors) {
  const plot = width - LEFT - RIGHT;
  c.textAlign = "center";
  for (const event of events) {
    if (!["stimulate", "sham", "suppressed", "fault"].includes(event.kind)) continue;
    if (event.frame < view.begin || event.frame >= view.stop) continue;
    const x = Math.round(LEFT + ((event.frame + 0.5 - view.begin) / view.frames) * plot) + 0.5;
    c.strokeStyle = c.fillStyle = event.kind === "stimulate" || event.kind === "fault" ? colors.bad : colors.quiet;
    c.setLineDash(event.kind === "stimulate" ? [] : [3, 3]);
    c.beginPath();
    c.moveTo(x, 10);
    c.lineTo(x, height);
    c.stroke();
    c.fillText(glyph(event.kind), x, 5);
  }
  c.setLineDash([]);
}

export function drawRate(surface, ring, view, colors) {
  const c = surface.begin(colors), { width, height } = surface;
  timeAxis(c, view, width, height, colors, false);
  if (!ring) return;
  const top = scales.rate.follow(extent(ring, 0, view.begin, view.stop)[1]);
  const toY = (v) => height - 3 - (v / top) * (height - 12);
  c.fillStyle = colors.quiet;
  c.textAlign = "right";
  c.fillText(number(top), LEFT - 6, 9);
  c.fillText("Hz", LEFT - 6, 24);
  c.fillText("0", LEFT - 6, height - 7);
  c.fillStyle = colors.grid;
  c.fillRect(LEFT, 9, width - LEFT - RIGHT, 1);
  c.fillRect(LEFT, height - 3, width - LEFT - RIGHT, 1);
  c.strokeStyle = colors.rate;
  c.lineWidth = 1.6;
  line(c, ring, 0, view, width, toY);
}

/** Raster in a picture of its own, one pixel for each frame and row, of which the screen shows a part. */
export class Raster {
  constructor(rows, capacity) {
    this.ring = new Ring(rows, capacity, Uint8Array, 0);
    this.canvas = document.createElement("canvas");
    this.canvas.width = capacity;
    this.canvas.height = rows;
    this.context = this.canvas.getContext("2d", { alpha: false });
    this.table = null;
  }

  write(first, values, count) {
    const stop = this.ring.stop;
    this.ring.write(first, values, count);
    if (!this.table) return;
    const begin = stop < first && stop > 0 ? Math.max(stop, this.ring.first) : first;
    this.paint(Math.max(begin, this.ring.first), this.ring.stop);
  }

  color(colors) {
    const stops = [colors["map-0"], colors["map-1"], colors["map-2"]].map(parse);
    this.table = new Uint32Array(256);
    const bytes = new Uint8Array(this.table.buffer);
    for (let i = 0; i < 256; i++) {
      const t = (Math.max(0, i - 1) / 254) * 2, k = Math.min(1, Math.floor(t)), u = t - k;
      for (let j = 0; j < 3; j++) bytes[4 * i + j] = stops[k][j] + u * (stops[k + 1][j] - stops[k][j]);
      bytes[4 * i + 3] = 255;
    }
    bytes.set([...parse(colors.undefined), 255], 0);
    this.context.fillStyle = colors.undefined;
    this.context.fillRect(0, 0, this.canvas.width, this.canvas.height);
    this.paint(this.ring.first, this.ring.stop);
  }

  paint(begin, stop) {
    const { rows, capacity, values } = this.ring;
    while (begin < stop) {
      const column = begin % capacity, count = Math.min(stop - begin, capacity - column);
      const image = this.context.createImageData(count, rows), pixels = new Uint32Array(image.data.buffer);
      for (let i = 0; i < count; i++) {
        const at = (column + i) * rows;
        for (let r = 0; r < rows; r++) pixels[r * count + i] = this.table[values[at + r]];
      }
      this.context.putImageData(image, column, 0);
      begin += count;
    }
  }
}

function parse(color) {
  return [1, 3, 5].map((i) => parseInt(color.slice(i, i + 2), 16));
}

export function drawRaster(surface, raster, data, view, colors) {
  const c = surface.begin(colors), { width, height } = surface, bottom = height - 18;
  timeAxis(c, view, width, height, colors, true);
  if (!raster) return;
  const { rows, capacity, first, stop } = raster.ring, plot = width - LEFT - RIGHT, perFrame = plot / view.frames;
  c.imageSmoothingEnabled = perFrame < 1 || bottom / rows < 1;
  for (let f = Math.max(view.begin, first), end = Math.min(view.stop, stop); f < end;) {
    const column = f % capacity, count = Math.min(end - f, capacity - column);
    c.drawImage(raster.canvas, column, 0, count, rows, LEFT + (f - view.begin) * perFrame, 0, count * perFrame, bottom);
    f += count;
  }
  c.strokeStyle = colors.edge;
  c.strokeRect(LEFT - 0.5, 0.5, plot + 1, bottom);
  c.textAlign = "right";
  c.fillStyle = colors.quiet;
  c.fillText("0", LEFT - 12, 7);
  c.fillText(String(data.nNeurons - 1), LEFT - 12, bottom - 7);
  c.fillStyle = colors.spikes;
  for (const neuron of data.neurons) {
    const y = ((neuron / data.perRow + 0.5) / rows) * bottom;
    c.beginPath();
    c.moveTo(LEFT - 9, y - 4);
    c.lineTo(LEFT - 1, y);
    c.lineTo(LEFT - 9, y + 4);
    c.fill();
  }
  if (data.cursor !== null) {
    const y = Math.round(((data.cursor + 0.5) / rows) * bottom) + 0.5;
    c.strokeStyle = colors.text;
    c.setLineDash([5, 3]);
    c.beginPath();
    c.moveTo(LEFT, y);
    c.lineTo(width - RIGHT, y);
    c.stroke();
    c.setLineDash([]);
  }
}

function hatch(c, x, y, w, h, color) {
  c.save();
  c.beginPath();
  c.rect(x, y, w, h);
  c.clip();
  c.strokeStyle = color;
  c.beginPath();
  for (let d = -h; d < w + h; d += 4) {
    c.moveTo(x + d, y + h);
    c.lineTo(x + d + h, y);
  }
  c.stroke();
  c.restore();
  c.strokeStyle = color;
  c.strokeRect(x + 0.5, y + 0.5, Math.max(0, w - 1), Math.max(0, h - 1));
}

export function drawLatency(surface, status, info, colors) {
  const c = surface.begin(colors), { width, height } = surface, latency = status && status.latency;
  if (!latency || !info || !latency.count) return empty(c, surface, "no result yet", colors);
  const edges = info.latency_edges_ms, left = 10, plot = width - 20, base = height - 20, top = 16;
  const low = Math.log(edges[0]), high = Math.log(edges[edges.length - 1]);
  const toX = (ms) => left + ((Math.log(ms) - low) / (high - low)) * plot;
  c.textAlign = "center";
  for (const ms of [0.1, 1, 10, 100, 1000]) {
    c.fillStyle = colors.grid;
    c.fillRect(Math.round(toX(ms)), top, 1, base - top);
    c.fillStyle = colors.quiet;
    c.textAlign = ms === 0.1 ? "left" : ms === 1000 ? "right" : "center";
    c.fillText(ms === 1000 ? "1 s" : `${ms} ms`, toX(ms), height - 8);
  }
  const whole = shares(latency.counts), recent = latency.recent ? shares(latency.recent) : null;
  const most = Math.max(...whole, ...(recent || []), 1e-9), deadline = latency.deadline_ms;
  const bars = edges.slice(1).map((edge, i) => [edges[i], edge, i + 1]);
  for (const [from, to, i] of bars) {
    const x = toX(from), w = toX(to) - x - 1, late = deadline && to > deadline * 1.001;
    const size = (share) => (share > 0 ? Math.max(2, (Math.sqrt(share / most)) * (base - top - 4)) : 0);
    const hAll = size(whole[i]), hNow = recent ? size(recent[i]) : 0;
    if (hAll) {
      c.fillStyle = colors.all;
      c.fillRect(x, base - hAll, w, hAll);
    }
    if (hNow) {
      if (late) hatch(c, x, base - hNow, w, hNow, colors.bad);
      else {
        c.fillStyle = colors.bar;
        c.fillRect(x + 1.5, base - hNow, w - 3, hNow);
      }
    } else if (late && hAll) hatch(c, x, base - hAll, w, hAll, colors.bad);
  }
  c.fillStyle = colors.quiet;
  c.fillRect(left, base, plot, 1);
  if (deadline) {
    const x = Math.round(toX(Math.min(Math.max(deadline, edges[0]), edges[edges.length - 1]))) + 0.5;
    c.strokeStyle = c.fillStyle = colors.bad;
    c.setLineDash([4, 3]);
    c.beginPath();
    c.moveTo(x, 4);
    c.lineTo(x, base);
    c.stroke();
    c.setLineDash([]);
    c.textAlign = x > width / 2 ? "right" : "left";
    c.fillText(`frame ${number(deadline)} ms`, x + (x > width / 2 ? -5 : 5), 8);
  }
}

function shares(counts) {
  const total = counts.reduce((a, b) => a + b, 0) || 1, folded = counts.map((n) => n / total);
  folded[1] += folded[0];  // what lies outside goes into the outer bins
  folded[folded.length - 2] += folded[folded.length - 1];
  return folded;
}

export function drawNoise(surface, status, info, colors) {
  const c = surface.begin(colors), { width, height } = surface, noise = status && status.noise;
  if (!noise || !noise.counts || !info || noise.median === null) {
    return empty(c, surface, info && !info.has_dff ? "not published by this run" : "not measured yet", colors);
  }
  const edges = info.noise_edges, left = 10, plot = width - 20, base = height - 20, top = 16, end = edges[edges.length - 1];
  const toX = (nu) => left + (nu / end) * plot, range = info.noise_range;
  if (range) {
    const x0 = toX(Math.min(range[0], end)), x1 = toX(Math.min(range[1], end));
    c.fillStyle = colors.band;
    c.fillRect(x0, top, x1 - x0, base - top);
    c.fillStyle = colors["band-edge"];
    c.fillRect(x0, top, 1.5, base - top);
    c.fillRect(x1 - 1.5, top, 1.5, base - top);
    c.textAlign = x0 < width / 2 ? "left" : "right";
    c.fillText(`trained: ${number(range[0])} to ${number(range[1])}`, x0 < width / 2 ? x0 : x1, 8);
  }
  const most = Math.max(...noise.counts, 1);
  noise.counts.forEach((n, i) => {
    if (!n) return;
    const x = toX(edges[i]) + 0.5, w = toX(edges[i + 1]) - toX(edges[i]) - 1, h = Math.max(2, (n / most) * (base - top - 4));
    const outside = range && (edges[i + 1] <= range[0] || edges[i] >= range[1]);
    if (outside) hatch(c, x, base - h, w, h, colors.bad);
    else {
      c.fillStyle = colors.bar;
      c.fillRect(x, base - h, w, h);
    }
  });
  c.fillStyle = colors.quiet;
  c.fillRect(left, base, plot, 1);
  for (let nu = 0; nu <= end; nu += 2) {
    c.textAlign = nu === 0 ? "left" : nu === end ? "right" : "center";
    c.fillText(nu === end ? `${nu}+` : String(nu), toX(nu), height - 8);
  }
}

function empty(c, surface, text, colors) {
  c.fillStyle = colors.quiet;
  c.textAlign = "center";
  c.fillText(text, surface.width / 2, surface.height / 2);
}
