"use strict";
// The tape is hostile: what it says is shown by textContent alone, and keys of it are kept in maps.
const byId = (id) => document.getElementById(id);
// Characters that turn the direction of a text are shown by their numbers.
const plain = (text) => text.replace(/[\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, (c) => `\\u${c.charCodeAt(0).toString(16)}`);
const make = (tag, kind, text) => {
  const node = document.createElement(tag);
  if (kind) node.className = kind;
  if (text !== undefined) node.textContent = plain(String(text));
  return node;
};

/* ---- the tape ---- */

const lines = byId("tape").textContent.split("\n").filter((line) => line.length > 1);
// Numbers that a double cannot hold are shown as they stand in the tape.
class Exact {
  constructor(text) { this.text = text; }
  toJSON() { return JSON.rawJSON ? JSON.rawJSON(this.text) : Number(this.text); }
}
const exact = (text) => /\d{16}|\d[eE]|\.\d/.test(text) ? JSON.parse(text, (_, value, from) =>
  typeof value === "number" && from?.source !== undefined && String(value) !== from.source ? new Exact(from.source) : value) : JSON.parse(text);
const read = (text) => { try { return exact(text); } catch { return undefined; } };
const head = read(lines.shift() ?? "") ?? {};
const about = head.shadowcat_page ?? {};
const tape = head.head ?? {};
const short = (value, room) => {
  const text = typeof value === "string" ? value : JSON.stringify(value) ?? "";
  return text.length > room ? text.slice(0, room) + "…" : text;
};

// One row is one arrow: a message, or what HTTP says where no message does.
const rows = [];
const frames = new Map(); // seq -> row
const waiting = new Map(); // exchange and side -> the row whose head waits for its body
const asked = new Map(); // side and id -> row of the request
const opened = new Map(); // exchange -> row of its request
let gaps = 0;
let leftOut = 0;

const say = (message) => {
  if (message.error) return `${message.error.code ?? ""} ${message.error.message ?? ""}`.trim();
  const result = message.result;
  if (result && typeof result === "object") {
    const texts = Array.isArray(result.content) ? result.content.filter((part) => part && typeof part.text === "string") : [];
    if (texts.length) return short(texts.map((part) => part.text).join(" "), 160);
    for (const [key, value] of Object.entries(result)) {
      if (Array.isArray(value)) return `${value.length} ${key}`;
    }
    if (result.serverInfo) return `${result.serverInfo.name ?? ""} ${result.serverInfo.version ?? ""}, ${result.protocolVersion ?? ""}`;
    return short(result, 160);
  }
  const params = message.params;
  if (!params || typeof params !== "object") return "";
  if (params.arguments !== undefined) return short(params.arguments, 160);
  const rest = Object.fromEntries(Object.entries(params).filter(([key]) => key !== "_meta" && key !== "name"));
  return Object.keys(rest).length ? short(rest, 160) : "";
};

const fill = (row, message) => {
  row.message = true;
  const method = typeof message.method === "string" ? message.method : undefined;
  const has = message.id !== undefined && message.id !== null;
  const fromClient = row.from === "client";
  row.say = say(message);
  if (method !== undefined) {
    row.what = method;
    row.name = message.params?.name ?? message.params?.uri ?? message.params?.ref?.name;
    if (typeof row.name !== "string") row.name = undefined;
    row.kind = has ? (fromClient ? "request" : "ask") : "notice";
    if (has) asked.set(`${row.from} ${row.about ?? ""} ${JSON.stringify(message.id)}`, row);
    return;
  }
  if (Array.isArray(message)) {
    Object.assign(row, { what: `batch of ${message.length}`, kind: fromClient ? "request" : "answer", say: "" });
    return;
  }
  row.kind = fromClient ? "reply" : "answer";
  row.bad ||= Boolean(message.error) || message.result?.isError === true;
  row.id = message.id;
};

const pair = (row, request) => {
  if (!request || request.pair !== undefined) return;
  row.pair = request.index;
  request.pair = row.index;
  row.ms = (row.us - request.us) / 1000;
  row.what = request.what;
  row.name = undefined;
  row.method = request.what;
  row.tool = request.name;
  request.bad ||= false;
  if (row.bad) request.failed = true;
};

const http = (row, fact) => {
  if (fact.kind === "request") {
    row.what = `${fact.method ?? ""} ${fact.target ?? ""}`;
    const last = (fact.headers ?? []).find((field) => /^last-event-id$/i.test(field?.[0]));
    if (last) row.say = `after event ${last[1]}`;
  }
  if (fact.kind === "response") {
    row.what = String(fact.status);
    const type = (fact.headers ?? []).find((field) => /^content-type$/i.test(field?.[0]));
    row.say = type ? String(type[1]) : "";
    row.bad ||= fact.status >= 400;
  }
  if (fact.kind === "event") row.event = fact.id;
  if (fact.kind === "comment") Object.assign(row, { what: "comment", quiet: true });
  if (fact.kind === "end") {
    Object.assign(row, { what: String(fact.how ?? "end"), quiet: fact.how === "complete" });
    row.bad ||= fact.how !== "complete" && fact.how !== "client gone";
    row.stops = true;
  }
};

lines.forEach((line, number) => {
  const frame = read(line);
  if (!frame || typeof frame !== "object") return;
  if (frame.gap) {
    gaps += frame.gap.frames ?? 0;
    const us = rows.length ? rows[rows.length - 1].us : 0;
    rows.push({ index: rows.length, lost: frame.gap.frames, us, lines: [number], kind: "pause" });
    return;
  }
  if (frame.shadowcat_left_out) leftOut = frame.shadowcat_left_out;
  if (typeof frame.seq !== "number") return;
  const exchange = frame.exchange === undefined ? undefined : `${frame.exchange} ${frame.from === "client" ? "c" : "s"}`;
  const fact = frame.http ?? {};
  let row = exchange !== undefined && (fact.kind === "body" || (!frame.http && "message" in frame)) ? waiting.get(exchange) : undefined;
  if (row) {
    row.lines.push(number);
  } else {
    row = {
      index: rows.length, us: frame.us ?? 0, from: frame.from, lines: [number], kind: frame.http ? "http" : "part",
      about: undefined, exchange: frame.exchange, say: "", what: "", bad: frame.error === true, stderr: frame.stream === "stderr",
    };
    rows.push(row);
  }
  frames.set(frame.seq, row);
  row.bad ||= frame.error === true;
  if (frame.http) http(row, fact);
  if (fact.kind === "request" || fact.kind === "response") {
    if (exchange !== undefined) waiting.set(exchange, row);
    if (fact.kind === "request") opened.set(frame.exchange, row);
  }
  if ("message" in frame && frame.message !== null && typeof frame.message === "object") {
    fill(row, frame.message);
    if (exchange !== undefined && waiting.get(exchange) === row) waiting.delete(exchange);
    const other = row.from === "client" ? "server" : "client";
    const request = typeof frame.answers === "number" ? frames.get(frame.answers)
      : row.kind === "answer" || row.kind === "reply"
        ? asked.get(`${other}  ${JSON.stringify(row.id)}`) ?? asked.get(`proxy  ${JSON.stringify(row.id)}`) : undefined;
    if (row.kind === "answer" || row.kind === "reply") pair(row, request);
  } else if (frame.rpc && typeof frame.rpc.method === "string") {
    // A message that was cut.
    const { method, name, id } = frame.rpc;
    fill(row, { method, id, params: typeof name === "string" ? { name } : undefined });
    row.say = short(frame.text ?? "", 160);
  } else if (typeof frame.answers === "number" && frame.text !== undefined && frames.has(frame.answers)) {
    row.kind = row.from === "client" ? "reply" : "answer";
    row.say = short(frame.text, 160);
    pair(row, frames.get(frame.answers));
  } else if (row.stderr) {
    Object.assign(row, { kind: "stderr", what: "stderr", say: frame.text ?? "bytes" });
  } else if (typeof frame.text === "string" || typeof frame.base64 === "string") {
    if (!row.message) row.say = short(frame.text ?? `${Math.floor((frame.base64.length * 3) / 4)} bytes that are no text`, 160);
    if (!row.what) row.what = frame.from === "client" ? "bytes" : "bytes";
  }
  // An HTTP request without a message is answered by the head of its response.
  if (fact.kind === "response" && !row.message) {
    const request = opened.get(frame.exchange);
    if (request && !request.message) pair(Object.assign(row, { status: fact.status }), Object.assign(request, {}));
    if (request && !request.message) row.what = String(fact.status);
  }
});
for (const row of rows) {
  if (row.kind === "http" && row.message !== true && row.pair === undefined && !row.bad) row.quiet = true;
  if (row.from === "client" && row.kind === "http" && row.what.startsWith("GET")) row.quiet = false;
}

/* ---- numbers ---- */

const ms = (value) => value >= 10000 ? `${(value / 1000).toFixed(1)} s` : value >= 1000 ? `${(value / 1000).toFixed(2)} s`
  : value >= 100 ? `${value.toFixed(0)} ms` : value >= 1 ? `${value.toFixed(1)} ms` : `${Math.round(value * 1000)} µs`;
const clock = (us) => {
  const s = us / 1e6;
  if (s < 60) return `${s.toFixed(3)} s`;
  const rest = (s % 60).toFixed(3).padStart(6, "0");
  const minutes = Math.floor(s / 60);
  return minutes < 60 ? `${minutes}:${rest}` : `${Math.floor(minutes / 60)}:${String(minutes % 60).padStart(2, "0")}:${rest.slice(0, 5)}`;
};
const amount = (count, one) => `${count.toLocaleString("en")} ${one}${count === 1 ? "" : "s"}`;
const at = (sorted, share) => sorted.length ? sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] : 0;
const byMethod = new Map();
const slowest = [];
const failures = [];
let unanswered = 0;
const latencies = [];
for (const row of rows) {
  if (row.kind === "request" || row.kind === "ask") {
    const key = row.what === "tools/call" && row.name ? row.name : row.what;
    row.group = key;
    let group = byMethod.get(key);
    if (!group) byMethod.set(key, (group = { calls: 0, bad: 0, times: [] }));
    group.calls += 1;
    if (row.failed) group.bad += 1;
    if (row.pair === undefined) unanswered += 1;
    else {
      const time = rows[row.pair].ms;
      rows[row.pair].group = key;
      group.times.push(time);
      latencies.push(time);
      slowest.push(row);
    }
  } else if (row.kind === "notice") row.group = row.what;
  if (row.bad && !row.stops) failures.push(row);
}
latencies.sort((a, b) => a - b);
for (const group of byMethod.values()) group.times.sort((a, b) => a - b);
slowest.sort((a, b) => rows[b.pair].ms - rows[a.pair].ms);
const duration = rows.length ? rows[rows.length - 1].us : 0;

/* ---- which rows are seen ---- */

const PAUSE_US = 1e6;
const LANES = 7;
let seen = []; // rows, and pauses between them
let place = new Map(); // row index -> number in `seen`
let chosen = -1;
let needle = "";
const wanted = { method: "", errors: false, quiet: true };

const matches = (row) => {
  if (row.kind === "pause") return !needle && !wanted.method && !wanted.errors;
  if (wanted.quiet && row.quiet) return false;
  if (wanted.errors && !row.bad && !row.failed) return false;
  if (wanted.method && row.group !== wanted.method) return false;
  return !needle || row.lines.some((line) => lines[line].toLowerCase().includes(needle));
};

const choose = () => {
  seen = [];
  place = new Map();
  let last;
  let found = 0;
  for (const row of rows) {
    if (!matches(row)) continue;
    if (row.kind !== "pause") {
      if (last !== undefined && row.us - last > PAUSE_US) seen.push({ kind: "pause", wait: row.us - last });
      last = row.us;
      found += 1;
    }
    place.set(row.index, seen.length);
    seen.push(row);
  }
  // Lanes of what is under way, so that bars do not lie on each other.
  const busy = { request: [], ask: [] };
  for (const row of seen) row.bars = undefined;
  seen.forEach((row, number) => {
    if (row.kind !== "request" && row.kind !== "ask") return;
    const end = row.pair === undefined ? undefined : place.get(row.pair);
    const lanes = busy[row.kind];
    let lane = lanes.findIndex((until) => until < number);
    if (lane < 0) lane = lanes.length < LANES ? lanes.push(-1) - 1 : -1;
    if (lane < 0) return;
    lanes[lane] = end ?? number;
    const bar = { lane, kind: row.kind, of: row.index, bad: row.failed };
    if (end === undefined) {
      (row.bars ??= []).push({ ...bar, part: row.pair === undefined ? "open" : "begin" });
      return;
    }
    for (let at = number; at <= end; at += 1) {
      (seen[at].bars ??= []).push({ ...bar, part: at === number ? "begin" : at === end ? "end" : "" });
    }
  });
  byId("count").textContent = amount(found, "row");
  byId("nothing").hidden = found > 0;
  byId("room").style.height = `${seen.length * rowHeight() + 24}px`;
  drawn.clear();
  byId("room").replaceChildren();
  draw();
  drawMap();
};

/* ---- the diagram: only what is on the screen exists ---- */

const scroll = byId("scroll");
const drawn = new Map();
const rowHeight = () => parseFloat(getComputedStyle(document.documentElement).getPropertyValue("--row")) || 34;

const lit = (node, said) => {
  const text = plain(said);
  if (!needle) return node.append(text);
  const low = text.toLowerCase();
  let from = 0;
  for (let found = low.indexOf(needle); found >= 0 && low.length === text.length; found = low.indexOf(needle, from)) {
    node.append(text.slice(from, found), make("mark", "", text.slice(found, found + needle.length)));
    from = found + needle.length;
  }
  node.append(text.slice(from));
};

const arrowRow = (row, number) => {
  const node = make("div", `row ${row.kind}`);
  const toServer = row.from === "client";
  node.classList.add(toServer ? "to-server" : "to-client");
  if (row.from === "proxy" || row.stops || rows[row.pair]?.from === "proxy") node.classList.add("by-proxy");
  if (row.bad) node.classList.add("bad");
  if (row.index === chosen) node.classList.add("chosen");
  if (chosen >= 0 && rows[chosen].pair === row.index) node.classList.add("pair");
  node.setAttribute("role", "option");
  node.setAttribute("aria-selected", String(row.index === chosen));
  const lanes = make("div", "lanes");
  const arrow = make("div", "arrow");
  const label = make("span", "label");
  const what = make("span", "what");
  lit(what, row.what || "bytes");
  label.append(what);
  if (row.name) {
    const name = make("span", "name");
    lit(name, row.name);
    label.append(name);
  }
  if (row.say) {
    const text = make("span", "say");
    lit(text, row.say);
    label.append(text);
  }
  arrow.append(label);
  lanes.append(arrow);
  for (const bar of row.bars ?? []) {
    const part = make("i", `bar ${bar.part} ${bar.kind}${bar.bad ? " bad" : ""}`);
    if (chosen === bar.of || (chosen >= 0 && rows[chosen].pair === bar.of)) part.classList.add("lit");
    const aside = 2 + bar.lane * 6;
    part.style.left = bar.kind === "request" ? `calc(var(--s) + ${aside}px)` : `calc(var(--c) - ${aside + 3}px)`;
    lanes.append(part);
  }
  const meta = make("span", "meta");
  if (row.ms !== undefined) meta.append(make("b", "", ms(row.ms)));
  else if (row.event !== undefined && row.event !== null) meta.append(`id ${short(String(row.event), 14)}`);
  node.append(make("span", "time", clock(row.us)), lanes, meta);
  node.addEventListener("click", () => select(row.index));
  node.setAttribute("aria-label", `${clock(row.us)} ${row.from} ${row.what} ${row.name ?? ""}`);
  node.dataset.number = String(number);
  return node;
};

const pauseRow = (row) => {
  const node = make("div", row.lost === undefined ? "row pause" : "row pause lost");
  const lanes = make("div", "lanes");
  lanes.append(make("span", "wait", row.lost === undefined ? ms(row.wait / 1000) : `${amount(row.lost, "frame")} not recorded: the queue was full`));
  node.append(make("span", "time"), lanes, make("span", "meta"));
  for (const bar of row.bars ?? []) {
    const part = make("i", `bar ${bar.kind}`);
    part.style.left = bar.kind === "request" ? `calc(var(--s) + ${2 + bar.lane * 6}px)` : `calc(var(--c) - ${5 + bar.lane * 6}px)`;
    lanes.append(part);
  }
  return node;
};

const draw = () => {
  const height = rowHeight();
  const from = Math.max(0, Math.floor(scroll.scrollTop / height) - 12);
  const to = Math.min(seen.length, Math.ceil((scroll.scrollTop + scroll.clientHeight) / height) + 12);
  for (const [number, node] of drawn) {
    if (number < from || number >= to) {
      node.remove();
      drawn.delete(number);
    }
  }
  for (let number = from; number < to; number += 1) {
    if (drawn.has(number)) continue;
    const node = seen[number].kind === "pause" ? pauseRow(seen[number]) : arrowRow(seen[number], number);
    node.style.transform = `translateY(${number * height}px)`;
    drawn.set(number, node);
    byId("room").append(node);
  }
};

const redraw = () => {
  drawn.clear();
  byId("room").replaceChildren();
  draw();
};

const reveal = (index) => {
  const number = place.get(index);
  if (number === undefined) return;
  const height = rowHeight();
  const top = number * height;
  // On small screens the lower part lies under the details.
  if (matchMedia("(max-width: 820px)").matches) {
    scroll.scrollTop = Math.max(0, top - 2 * height);
    return;
  }
  if (top < scroll.scrollTop + height || top > scroll.scrollTop + scroll.clientHeight - 3 * height) {
    scroll.scrollTop = Math.max(0, top - scroll.clientHeight / 3);
  }
};

/* ---- the map: frames over time ---- */

const map = byId("map");
const drawMap = () => {
  const ratio = devicePixelRatio || 1;
  const width = map.clientWidth;
  const height = 46;
  map.width = width * ratio;
  map.height = height * ratio;
  const pen = map.getContext("2d");
  pen.scale(ratio, ratio);
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const count = Math.max(1, Math.floor(width / 4));
  const buckets = Array.from({ length: count }, () => [0, 0, 0]);
  const bucket = (us) => Math.min(count - 1, Math.floor((us / (duration || 1)) * count));
  for (const row of seen) {
    if (row.kind === "pause") continue;
    buckets[bucket(row.us)][row.bad ? 2 : row.from === "client" ? 0 : 1] += 1;
  }
  const most = Math.max(1, ...buckets.map((each) => each[0] + each[1] + each[2]));
  const tall = (value) => value ? Math.max(1.5, (Math.sqrt(value) / Math.sqrt(most)) * (height - 12)) : 0;
  buckets.forEach(([client, server, bad], number) => {
    const all = tall(client + server + bad);
    const total = client + server + bad || 1;
    let base = height - 5;
    for (const [value, name] of [[bad, "--bad"], [server, "--answer"], [client, "--request"]]) {
      if (!value) continue;
      const size = Math.max(1.5, (all * value) / total);
      pen.fillStyle = colour(name);
      pen.fillRect(number * 4, base - size, 3, size);
      base -= size;
    }
  });
  const rowsSeen = seen.filter((row) => row.kind !== "pause");
  if (!rowsSeen.length) return;
  const first = seen.slice(Math.max(0, Math.floor(scroll.scrollTop / rowHeight()))).find((row) => row.us !== undefined) ?? rowsSeen[0];
  const end = Math.min(seen.length - 1, Math.floor((scroll.scrollTop + scroll.clientHeight) / rowHeight()));
  const last = seen.slice(0, end + 1).reverse().find((row) => row.us !== undefined) ?? first;
  const left = ((first.us ?? 0) / (duration || 1)) * width;
  const right = Math.max(left + 4, ((last.us ?? 0) / (duration || 1)) * width);
  pen.fillStyle = colour("--request");
  pen.globalAlpha = 0.12;
  pen.fillRect(left, 0, right - left, height);
  pen.globalAlpha = 0.9;
  pen.fillRect(left, height - 2, right - left, 2);
  pen.globalAlpha = 1;
};
map.addEventListener("pointerdown", (event) => {
  const go = (move) => {
    const us = (move.offsetX / map.clientWidth) * duration;
    let number = seen.findIndex((row) => row.us !== undefined && row.us >= us);
    if (number < 0) number = seen.length - 1;
    scroll.scrollTop = Math.max(0, number * rowHeight() - scroll.clientHeight / 3);
  };
  go(event);
  map.setPointerCapture(event.pointerId);
  map.onpointermove = go;
  map.onpointerup = () => (map.onpointermove = null);
});

/* ---- one row in full ---- */

const CHUNK = 100;
const tree = (value, key, depth) => {
  const lead = () => {
    const line = document.createDocumentFragment();
    if (key !== undefined) line.append(make("span", "key", String(key)), ": ");
    return line;
  };
  if (value === null || typeof value !== "object" || value instanceof Exact) {
    const line = make("div", "leaf");
    line.append(lead());
    if (typeof value === "string") {
      const long = value.length > 2000;
      const text = make("span", "string", JSON.stringify(long ? value.slice(0, 2000) : value).replace(/\\n/g, "\n"));
      line.append(text);
      if (long) {
        const more = make("button", "act", `${amount(value.length - 2000, "more character")}`);
        more.addEventListener("click", () => { text.textContent = plain(JSON.stringify(value).replace(/\\n/g, "\n")); more.remove(); });
        line.append(" ", more);
      }
    } else line.append(make("span", typeof value === "number" || value instanceof Exact ? "number" : "word", value instanceof Exact ? value.text : String(value)));
    return line;
  }
  const entries = Array.isArray(value) ? value.map((each, number) => [number, each]) : Object.entries(value);
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  if (!entries.length) {
    const line = make("div", "leaf");
    line.append(lead(), `${open}${close}`);
    return line;
  }
  const node = make("details");
  const summary = make("summary");
  summary.append(lead(), open, make("span", "fold", ` ${entries.length} ${close}`));
  node.append(summary);
  let built = false;
  const build = () => {
    if (built) return;
    built = true;
    const kids = make("div", "kids");
    let next = 0;
    const more = make("button", "act");
    const grow = () => {
      for (const [name, each] of entries.slice(next, next + CHUNK)) kids.insertBefore(tree(each, name, depth + 1), more);
      next += CHUNK;
      more.textContent = `${entries.length - next} more`;
      if (next >= entries.length) more.remove();
    };
    kids.append(more);
    more.addEventListener("click", grow);
    grow();
    node.append(kids);
  };
  node.addEventListener("toggle", build);
  if (depth < 3 && (entries.length <= 40 || depth === 0)) {
    build();
    node.open = true;
  }
  return node;
};

const act = (text, go) => {
  const button = make("button", "act", text);
  button.type = "button";
  button.addEventListener("click", go);
  return button;
};
const facts = (pairs) => {
  const list = make("dl");
  for (const [name, value] of pairs) {
    if (value === undefined || value === null || value === "") continue;
    list.append(make("dt", "", name), make("dd", "", String(value)));
  }
  return list;
};
const moment = (us) => {
  const begun = Date.parse(tape.started);
  return Number.isNaN(begun) ? undefined : new Date(begun + us / 1000).toISOString().replace("T", " ").replace("Z", " UTC");
};

const detail = (row) => {
  const room = byId("detail");
  room.replaceChildren();
  const top = make("div", `bar-head row-${row.kind}`);
  top.append(make("h3", "", row.name ? `${row.what} ${row.name}` : row.what || "bytes"), act("Close", () => select(-1)));
  room.append(top);
  const first = exact(lines[row.lines[0]]);
  const kinds = { request: "request", answer: "answer", notice: "notification", ask: "request of the server", reply: "answer of the client", http: "HTTP", stderr: "stderr", part: "bytes" };
  room.append(facts([
    ["what", kinds[row.kind]], ["from", row.from], ["frame", row.lines.map((line) => read(lines[line])?.seq).join(", ")],
    ["at", `${clock(row.us)} after the start`], ["time", moment(row.us)], ["took", row.ms === undefined ? undefined : ms(row.ms)],
    ["exchange", row.exchange], ["event id", row.event], ["connection", first.connection], ["upstream", first.upstream],
    ["bytes", row.lines.reduce((sum, line) => sum + lines[line].length, 0).toLocaleString("en") + " on the tape"],
  ]));
  const acts = make("div", "acts");
  if (row.pair !== undefined) acts.append(act(row.ms === undefined ? "Go to the answer" : "Go to the request", () => select(row.pair)));
  if (row.pair === undefined && (row.kind === "request" || row.kind === "ask")) room.append(make("p", "note", "No answer on this tape."));
  const copy = act("Copy", async () => {
    const text = row.lines.map((line) => lines[line]).join("\n");
    try { await navigator.clipboard.writeText(text); copy.textContent = "Copied"; } catch { copy.textContent = "The browser does not allow it"; }
  });
  acts.append(copy);
  room.append(acts);
  for (const line of row.lines) {
    const frame = exact(lines[line]);
    if (frame.http && (frame.http.headers || frame.http.how)) {
      room.append(make("h2", "", frame.http.kind === "response" ? `HTTP ${frame.http.status}` : `HTTP ${frame.http.kind}`));
      const pairs = frame.http.kind === "request" ? [["", `${frame.http.method} ${frame.http.target}`]] : [];
      room.append(facts([...pairs, ["how", frame.http.how], ...(frame.http.headers ?? [])]));
    }
    if (frame.cut) room.append(make("p", "note", `${amount(Number(frame.cut), "more byte")} were not kept.`));
    if ("message" in frame) {
      room.append(make("h2", "", "Message"));
      const box = make("div", "json");
      box.append(tree(frame.message, undefined, 0));
      room.append(box);
    } else if (frame.text !== undefined || frame.base64 !== undefined) {
      room.append(make("h2", "", frame.text === undefined ? "Bytes, in base64" : "Text"), make("pre", "json text", String(frame.text ?? frame.base64)));
    }
    if (frame.shadowcat_cut) room.append(make("p", "note", `Too long for this page (${amount(frame.shadowcat_cut, "byte")}): shadowcat tape show --frame ${frame.seq}`));
  }
};

const select = (index) => {
  chosen = index;
  const row = rows[index];
  byId("detail").hidden = !row;
  byId("overview").hidden = Boolean(row);
  byId("side").classList.toggle("shown", Boolean(row));
  if (row) {
    detail(row);
    if (!place.has(index)) reset();
    reveal(index);
    history.replaceState(null, "", `#${read(lines[row.lines[0]])?.seq ?? ""}`);
    byId("side").scrollTop = 0;
  } else history.replaceState(null, "", "#");
  redraw();
};

/* ---- what it came to ---- */

const overview = () => {
  const room = byId("overview");
  const card = (value, name, kind) => {
    const node = make("div", `card ${kind ?? ""}`);
    node.append(make("b", "", value), make("span", "", name));
    return node;
  };
  const cards = make("div", "cards");
  const calls = [...byMethod.values()].reduce((sum, group) => sum + group.calls, 0);
  cards.append(
    card(calls.toLocaleString("en"), "requests"), card(failures.length.toLocaleString("en"), "errors", failures.length ? "bad" : ""), card(clock(duration), "lasted"),
    card(ms(at(latencies, 0.5)), "half within"), card(ms(at(latencies, 0.99)), "99 % within"), card(unanswered.toLocaleString("en"), "without answer", unanswered ? "bad" : ""),
  );
  room.append(cards);
  if (leftOut) room.append(make("p", "note", `${amount(leftOut, "frame")} found no room in this page: choose with --since, --method and the like.`));
  if (about.filtered) room.append(make("p", "note", "Only frames that were chosen are here."));
  if (gaps) room.append(make("p", "note", `${amount(gaps, "frame")} could not be recorded, because the queue was full.`));
  const server = rows.find((row) => row.kind === "answer" && row.method === "initialize" || row.method === "server/discover" && row.kind === "answer");
  const said = server ? read(lines[server.lines[server.lines.length - 1]])?.message?.result : undefined;
  const info = said?.serverInfo ?? said?._meta?.["io.modelcontextprotocol/serverInfo"];
  room.append(make("h2", "", "Tape"), facts([
    ["server", info ? `${info.name ?? ""} ${info.version ?? ""}` : undefined], ["protocol", said?.protocolVersion ?? said?.supportedVersions?.join(", ")],
    ["behind", tape.server?.upstream ?? tape.server?.command?.join(" ")], ["transport", tape.transport], ["session", tape.session],
    ["started", moment(0)], ["recorded by", tape.software], ["tape", tape.id],
  ]));
  if (byMethod.size) {
    room.append(make("h2", "", "Methods and tools"));
    const table = make("table");
    const title = table.createTHead().insertRow();
    for (const name of ["", "calls", "errors", "p50", "max"]) title.append(make("th", "", name));
    const body = table.createTBody();
    for (const [name, group] of [...byMethod].sort((a, b) => b[1].calls - a[1].calls).slice(0, 40)) {
      const line = body.insertRow();
      line.insertCell().append(plain(name));
      line.insertCell().textContent = group.calls.toLocaleString("en");
      const bad = line.insertCell();
      bad.textContent = group.bad ? String(group.bad) : "–";
      if (group.bad) bad.className = "bad";
      line.insertCell().textContent = group.times.length ? ms(at(group.times, 0.5)) : "–";
      line.insertCell().textContent = group.times.length ? ms(group.times[group.times.length - 1]) : "–";
      line.addEventListener("click", () => { byId("method").value = name; wanted.method = name; choose(); });
    }
    room.append(table);
  }
  const list = (title, found, text) => {
    if (!found.length) return;
    room.append(make("h2", "", title));
    const box = make("div", "list");
    for (const row of found.slice(0, 8)) {
      const button = act("", () => select(row.index));
      button.className = "";
      button.append(make("span", "", row.name ? `${row.what} ${row.name}` : row.what), make("span", "", text(row)));
      box.append(button);
    }
    room.append(box);
  };
  list("Errors", failures, (row) => short(row.say, 40));
  list("Slowest", slowest, (row) => ms(rows[row.pair].ms));
};

/* ---- controls ---- */

const reset = () => {
  needle = "";
  Object.assign(wanted, { method: "", errors: false, quiet: wanted.quiet && !rows[chosen]?.quiet });
  byId("search").value = "";
  byId("method").value = "";
  for (const id of ["errors", "quiet"]) byId(id).setAttribute("aria-pressed", String(wanted[id]));
  choose();
};
const methods = byId("method");
methods.append(new Option("All methods and tools", ""));
const groups = new Set(rows.map((row) => row.group).filter((group) => group !== undefined));
for (const group of [...groups].sort()) methods.append(new Option(plain(short(group, 60)), group));
methods.addEventListener("change", () => { wanted.method = methods.value; scroll.scrollTop = 0; choose(); });
let later;
byId("search").addEventListener("input", (event) => {
  clearTimeout(later);
  later = setTimeout(() => { needle = event.target.value.toLowerCase(); scroll.scrollTop = 0; choose(); }, 90);
});
for (const id of ["errors", "quiet"]) {
  byId(id).addEventListener("click", () => {
    wanted[id] = !wanted[id];
    byId(id).setAttribute("aria-pressed", String(wanted[id]));
    scroll.scrollTop = 0;
    choose();
  });
}
byId("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  drawMap();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawMap);
let due = false;
const soon = () => {
  if (due) return;
  due = true;
  requestAnimationFrame(() => { due = false; draw(); drawMap(); });
};
scroll.addEventListener("scroll", soon, { passive: true });
addEventListener("resize", () => { byId("room").style.height = `${seen.length * rowHeight() + 24}px`; redraw(); drawMap(); });
addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    if (document.activeElement === byId("search")) { byId("search").blur(); if (needle) reset(); } else select(-1);
    return;
  }
  if (event.target.matches("input, select")) return;
  if (event.key === "/") {
    event.preventDefault();
    byId("search").focus();
    return;
  }
  const step = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1 }[event.key];
  if (step) {
    event.preventDefault();
    let number = chosen < 0 ? (step > 0 ? -1 : seen.length) : place.get(chosen) ?? -1;
    do number += step; while (seen[number]?.kind === "pause");
    if (seen[number]) select(seen[number].index);
  }
  if (event.key === "p" && rows[chosen]?.pair !== undefined) select(rows[chosen].pair);
});

byId("title").textContent = plain(about.name ?? "Tape");
const behind = tape.server?.upstream ?? tape.server?.command?.join(" ") ?? "";
byId("subtitle").textContent = [behind, moment(0)?.replace(/\.\d+ /, " "), amount(lines.length, "frame")].filter(Boolean).map(plain).join("  ·  ");
document.title = `${plain(about.name ?? "Tape")} · shadowcat`;
overview();
choose();
const asked_for = Number(location.hash.slice(1));
if (asked_for && frames.has(asked_for)) select(frames.get(asked_for).index);
