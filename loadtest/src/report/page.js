"use strict";
// Draws the page from the JSON in it: tiles, charts, tables. Times are nanoseconds.
const data = JSON.parse(document.getElementById("data").textContent);
const page = document.getElementById("page");
const targets = data.targets;
const SVG = "http://www.w3.org/2000/svg";

// --- elements

function make(name, attributes = {}, ...children) {
    const isSvg = ["svg", "path", "line", "text", "g", "rect", "circle", "defs", "clipPath"].includes(name);
    const element = isSvg ? document.createElementNS(SVG, name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
        if (key === "colour") element.style.setProperty("--colour", value);
        else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
        else if (value !== undefined && value !== false) element.setAttribute(key, value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
}

// --- numbers as people read them

function time(ns) {
    const size = Math.abs(ns);
    const [value, unit] = size < 999.5 ? [ns, "ns"] : size < 999.5e3 ? [ns / 1e3, "µs"] : size < 999.5e6 ? [ns / 1e6, "ms"] : [ns / 1e9, "s"];
    const digits = unit === "ns" || Math.abs(value) >= 99.95 ? 0 : Math.abs(value) >= 9.995 ? 1 : 2;
    return `${value.toFixed(digits)} ${unit}`;
}
// As above without digits that a mark on an axis does not need.
const mark = (ns) => time(ns).replace(/(\.\d*?)0+ /, "$1 ").replace(". ", " ");
const count = (value) => Math.round(value).toLocaleString("en");
function rate(value) {
    if (value >= 1e6) return `${(value / 1e6).toFixed(value >= 1e7 ? 0 : 1)}M`;
    if (value >= 1e4) return `${(value / 1e3).toFixed(value >= 1e5 ? 0 : 1).replace(/\.0$/, "")}k`;
    return value >= 100 || Number.isInteger(value) ? count(value) : value.toFixed(1);
}
const signed = (ns) => (ns >= 0 ? "+" : "−") + time(Math.abs(ns));
const percent = (part) => `${(part * 100).toFixed(part && part < 0.001 ? 4 : 2).replace(/\.?0+$/, "")} %`;
const bytes = (value) => {
    const unit = value < 1024 ? 0 : Math.min(4, Math.floor(Math.log2(value) / 10));
    return `${(value / 1024 ** unit).toFixed(unit ? 1 : 0)} ${["B", "KiB", "MiB", "GiB", "TiB"][unit]}`;
};

// --- targets and their colours: the direct run is grey and dashed

let colours = 0;
for (const target of targets) target.colour = target.direct ? "var(--direct)" : `var(--c${colours++ % 6})`;

// --- charts

function linearTicks(low, high, wanted) {
    const rough = (high - low) / wanted || 1;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= rough);
    const ticks = [];
    for (let at = Math.ceil(low / step) * step; at <= high + step * 1e-6; at += step) ticks.push(Math.abs(at) < step * 1e-6 ? 0 : at);
    return ticks;
}

function logTicks(low, high) {
    const decades = Math.log10(high / low);
    const factors = decades < 1.7 ? [1, 2, 5] : decades < 3.2 ? [1, 3] : [1];
    const ticks = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++)
        for (const factor of factors) {
            const tick = factor * 10 ** power;
            if (tick >= low * 0.999 && tick <= high * 1.001) ticks.push(tick);
        }
    return ticks;
}

/// `lines`: {name, colour, points: [[x, y]], dash, area, faint}; `x`, `y`: {log, format, ticks, low, high, label}.
function plot({ lines, x = {}, y = {}, height = 250, label }) {
    const holder = make("div", { class: "plot" });
    const draw = (width) => {
        const room = { left: 58, right: 14, top: 12, bottom: 30 };
        const inner = { width: Math.max(60, width - room.left - room.right), height: height - room.top - room.bottom };
        const shown = lines.map((line) => ({ ...line, points: line.points.filter(([at, value]) => Number.isFinite(at) && (!y.log || value > 0)) }));
        const every = shown.flatMap((line) => line.points);
        if (!every.length) {
            holder.replaceChildren(make("p", { class: "note" }, "nothing to draw"));
            return;
        }
        const extent = (index, axis) => {
            const values = every.map((point) => point[index]);
            let low = axis.low ?? Math.min(...values);
            let high = axis.high ?? Math.max(...values);
            if (!axis.log && index === 1) [low, high] = [0, (high || 1) * 1.06];
            if (axis.log && axis.low === undefined) [low, high] = index ? [low / 1.25, high * 1.25] : [low, high];
            return low === high ? [low * 0.9, high * 1.1 || 1] : [low, high];
        };
        const scale = (index, axis, size, reversed) => {
            const [low, high] = extent(index, axis);
            const map = axis.log ? Math.log : (value) => value;
            const to = (value) => ((map(Math.max(value, axis.log ? low / 4 : -Infinity)) - map(low)) / (map(high) - map(low))) * size;
            return { low, high, to: (value) => (reversed ? size - to(value) : to(value)) };
        };
        const [across, up] = [scale(0, x, inner.width, false), scale(1, y, inner.height, true)];
        const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
        const area = make("g", { transform: `translate(${room.left} ${room.top})` });
        const clip = `c${Math.random().toString(36).slice(2)}`;
        area.append(make("defs", {}, make("clipPath", { id: clip }, make("rect", { x: -1, y: -4, width: inner.width + 2, height: inner.height + 8 }))));
        const yTicks = y.log ? logTicks(up.low, up.high) : linearTicks(up.low, up.high, 5);
        for (const tick of yTicks) {
            const at = up.to(tick);
            area.append(make("line", { class: "gridline", x1: 0, x2: inner.width, y1: at, y2: at }));
            area.append(make("text", { x: -8, y: at + 4, "text-anchor": "end" }, (y.format ?? rate)(tick)));
        }
        const xTicks = x.ticks ?? (x.log ? logTicks(across.low, across.high) : linearTicks(across.low, across.high, Math.max(3, inner.width / 90)));
        for (const tick of xTicks) {
            const [at, text] = Array.isArray(tick) ? tick : [tick, (x.format ?? rate)(tick)];
            if (at < across.low || at > across.high * 1.0001) continue;
            area.append(make("text", { x: across.to(at), y: inner.height + 18, "text-anchor": "middle" }, text));
            if (x.log || x.ticks) area.append(make("line", { class: "gridline", x1: across.to(at), x2: across.to(at), y1: 0, y2: inner.height }));
        }
        for (const at of x.rounds ?? []) area.append(make("line", { class: "round", x1: across.to(at), x2: across.to(at), y1: 0, y2: inner.height }));
        area.append(make("line", { class: "axis", x1: 0, x2: inner.width, y1: inner.height, y2: inner.height }));
        const drawn = make("g", { "clip-path": `url(#${clip})` });
        for (const line of shown) {
            if (!line.points.length) continue;
            const path = line.points.map(([at, value], i) => `${i ? "L" : "M"}${across.to(at).toFixed(1)} ${up.to(value).toFixed(1)}`).join("");
            const [first, last] = [across.to(line.points[0][0]), across.to(line.points.at(-1)[0])];
            if (line.area) drawn.append(make("path", { d: `${path}L${last} ${inner.height}L${first} ${inner.height}Z`, style: `fill:${line.colour};opacity:.13` }));
            const style = `fill:none;stroke:${line.colour};stroke-width:${line.faint ? 1.5 : 2};stroke-linejoin:round;opacity:${line.faint ? 0.7 : 1};${line.dash ? "stroke-dasharray:5 4" : ""}`;
            drawn.append(make("path", { d: path, style }));
            if (line.points.length === 1 || line.dots) for (const [at, value] of line.points) drawn.append(make("circle", { cx: across.to(at), cy: up.to(value), r: 3, style: `fill:${line.colour}` }));
        }
        area.append(drawn);
        if (x.label) area.append(make("text", { x: inner.width, y: inner.height - 6, "text-anchor": "end" }, x.label));
        svg.append(area);
        holder.replaceChildren(svg);
        hover(holder, svg, area, { shown, across, up, room, inner, width, x, y });
    };
    new ResizeObserver(([entry]) => draw(Math.round(entry.contentRect.width))).observe(holder);
    return holder;
}

/// A line under the pointer, and what is there.
function hover(holder, svg, area, { shown, across, up, room, inner, width, x, y }) {
    const cross = make("line", { class: "cross", y1: 0, y2: inner.height, visibility: "hidden" });
    const dots = make("g");
    area.append(cross, dots);
    const tip = make("div", { class: "tip", hidden: "" });
    holder.append(tip);
    const hide = () => {
        tip.hidden = true;
        cross.setAttribute("visibility", "hidden");
        dots.replaceChildren();
    };
    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("pointermove", (event) => {
        const box = svg.getBoundingClientRect();
        const at = ((event.clientX - box.left) / box.width) * width - room.left;
        if (at < -6 || at > inner.width + 6) return hide();
        const nearest = shown
            .filter((line) => line.points.length)
            .map((line) => {
                const point = line.points.reduce((best, point) => (Math.abs(across.to(point[0]) - at) < Math.abs(across.to(best[0]) - at) ? point : best));
                return { line, point };
            });
        if (!nearest.length) return;
        const here = nearest.reduce((best, one) => (Math.abs(across.to(one.point[0]) - at) < Math.abs(across.to(best.point[0]) - at) ? one : best)).point[0];
        const place = across.to(here);
        cross.setAttribute("visibility", "visible");
        cross.setAttribute("x1", place);
        cross.setAttribute("x2", place);
        dots.replaceChildren(...nearest.map(({ line, point }) => make("circle", { cx: across.to(point[0]), cy: up.to(point[1]), r: 3.5, style: `fill:${line.colour}` })));
        tip.replaceChildren(
            make("b", {}, (x.tip ?? x.format ?? rate)(here)),
            ...nearest.map(({ line, point }) => make("div", {}, make("span", {}, make("i", { colour: line.colour }), line.name), make("span", {}, (y.tip ?? y.format ?? rate)(point[1])))),
        );
        tip.hidden = false;
        const left = ((place + room.left) / width) * box.width;
        tip.style.left = left + tip.offsetWidth + 20 > box.width ? `${left - tip.offsetWidth - 12}px` : `${left + 12}px`;
    });
}

const legend = (lines) =>
    make("div", { class: "legend" }, ...lines.map((line) => make("span", {}, make("i", { colour: line.colour, class: line.dash ? "dash" : "" }), line.name)));

function card(title, note, wide, ...content) {
    return make("section", { class: wide ? "card wide" : "card" }, make("div", { class: "top" }, make("h2", {}, title)), note ? make("p", { class: "note" }, note) : null, ...content);
}

/// A chart whose lines depend on what is chosen.
function chosen(title, note, wide, choices, first, draw) {
    const body = make("div");
    const buttons = choices.map((choice) =>
        make("button", { type: "button", onclick: () => choose(choice) }, choice[0]),
    );
    const choose = (choice) => {
        buttons.forEach((button, i) => button.setAttribute("aria-pressed", choices[i] === choice));
        body.replaceChildren(...draw(choice[1]));
    };
    const section = make(
        "section",
        { class: wide ? "card wide" : "card" },
        make("div", { class: "top" }, make("h2", {}, title), make("div", { class: "switch" }, ...buttons)),
        make("p", { class: "note" }, note),
        body,
    );
    choose(choices.find((choice) => choice[1] === first));
    return section;
}

const lineOf = (target, points, more = {}) => ({ name: target.name, colour: target.colour, dash: target.direct, points, ...more });
const overTime = (target, value) => target.series.map((point, i) => [(i + 1) * target.interval_s, value(point)]);
// One round stands behind the other.
const perRound = Math.min(...targets.map((target) => (target.series.length * target.interval_s) / target.rounds.length));
const rounds = Array.from({ length: Math.min(...targets.map((target) => target.rounds.length)) - 1 }, (_, i) => (i + 1) * perRound);
const seconds = { format: (value) => `${rate(value)} s`, tip: (value) => `${value.toFixed(1)} s`, low: 0, rounds };
const timeNote = (note) => (rounds.length ? `${note}; dotted lines part the rounds` : note);

function latencyOverTime() {
    const choices = [["p50", "p50"], ["p90", "p90"], ["p99", "p99"], ["max", "max"]];
    return chosen("Latency over time", timeNote("of the answers that came in each interval"), true, choices, "p99", (key) => {
        const lines = targets.map((target) => lineOf(target, overTime(target, (point) => point[key])));
        return [plot({ lines, x: seconds, y: { log: true, format: mark, tip: time }, height: 280, label: `${key} over time` }), legend(lines)];
    });
}

function latencyByPercentile() {
    const nines = (quantile) => -Math.log10(1 - Math.min(quantile, 0.9999999));
    const ticks = [[0, "0"], [nines(0.5), "50 %"], [1, "90 %"], [2, "99 %"], [3, "99.9 %"], [4, "99.99 %"], [5, "99.999 %"]];
    const deepest = Math.max(1.2, ...targets.map((target) => Math.log10(Math.max(target.latency.count, 1))));
    const lines = targets.map((target) => {
        const most = Math.log10(Math.max(target.latency.count, 1));
        return lineOf(target, target.percentiles.filter(([quantile]) => quantile < 1 && nines(quantile) <= most + 0.01).map(([quantile, ns]) => [nines(quantile), ns]));
    });
    const x = { ticks, low: 0, high: deepest, tip: (value) => `${((1 - 10 ** -value) * 100).toPrecision(6).replace(/\.?0+$/, "")} %` };
    return card("Latency by percentile", "each step to the right is ten times rarer", false, plot({ lines, x, y: { log: true, format: mark, tip: time }, label: "latency by percentile" }), legend(lines));
}

function distribution() {
    const lines = targets.map((target) => {
        const all = target.latency.count || 1;
        const points = target.histogram.map(([end, times]) => [end, (times / all) * 100]);
        if (points.length) points.unshift([points[0][0] / 2 ** 0.125, 0]);
        if (points.length) points.push([points.at(-1)[0] * 2 ** 0.125, 0]);
        return lineOf(target, points, { area: true });
    });
    const y = { format: (value) => `${rate(value)} %`, tip: (value) => `${value.toFixed(2)} %` };
    return card("Distribution", "how many answers took how long", false, plot({ lines, x: { log: true, format: mark, tip: (ns) => `up to ${time(ns)}` }, y, label: "distribution of latency" }), legend(lines));
}

function throughput() {
    const lines = targets.map((target) => lineOf(target, overTime(target, (point) => point.rate), { area: targets.length === 1 }));
    const open = data.scenario.users.filter((users) => users.pace.loop === "open").reduce((sum, users) => sum + users.pace.rate, 0);
    const all = data.scenario.users.every((users) => users.pace.loop === "open");
    const longest = Math.max(...targets.map((target) => target.series.length * target.interval_s));
    if (open && all) lines.push({ name: "offered", colour: "var(--faint)", dash: true, faint: true, points: [[0, open], [longest, open]] });
    return card("Throughput", "right answers a second", false, plot({ lines, x: seconds, y: { tip: (value) => `${count(value)}/s` }, label: "throughput over time" }), legend(lines));
}

function errorsOverTime() {
    const lines = targets.map((target) => lineOf(target, overTime(target, (point) => point.errors), { area: true }));
    return card("Errors", "a second", false, plot({ lines, x: seconds, y: { tip: (value) => `${value.toFixed(1)}/s` }, label: "errors over time" }), legend(lines));
}

function eventsOverTime() {
    const lines = targets.map((target) => lineOf(target, overTime(target, (point) => point.events), { area: true }));
    return card("Events of open streams", "a second", false, plot({ lines, x: seconds, y: { tip: (value) => `${count(value)}/s` }, label: "events over time" }), legend(lines));
}

function connectionsOverTime() {
    const lines = targets.map((target) => lineOf(target, overTime(target, (point) => point.connections)));
    return card("Open connections", "at the end of each interval", false, plot({ lines, x: seconds, y: { tip: count }, label: "open connections over time" }), legend(lines));
}

function ramp() {
    const ramped = targets.filter((target) => target.steps.length);
    const answered = ramped.map((target) => lineOf(target, target.steps.map((step) => [step.offered, step.achieved]), { dots: true }));
    const highest = Math.max(...ramped.flatMap((target) => target.steps.map((step) => step.offered)));
    answered.push({ name: "offered", colour: "var(--faint)", dash: true, faint: true, points: [[0, 0], [highest, highest]] });
    const slow = ramped.map((target) => lineOf(target, target.steps.map((step) => [step.offered, step.p99]), { dots: true }));
    const x = { low: 0, format: (value) => `${rate(value)}/s`, tip: (value) => `${count(value)}/s offered` };
    const said = ramped.map((target) => `${target.name}: kept up with ${count(target.saturation.rate)}/s${target.saturation.why ? `, then ${target.saturation.why}` : ""}`).join("; ");
    return [
        card("Answered against offered", said, false, plot({ lines: answered, x, y: { tip: (value) => `${count(value)}/s` }, label: "answered against offered" }), legend(answered)),
        card("p99 against offered", "each step of the ramp", false, plot({ lines: slow, x, y: { log: true, format: mark, tip: time }, label: "p99 against offered rate" }), legend(slow)),
    ];
}

// --- tables

const cell = (text, attributes = {}) => make("td", attributes, text);
const named = (target, text = target.name) => make("td", {}, make("i", { class: "dot", colour: target.colour }), text);
function table(heads, rows) {
    return make("div", { class: "scroll" }, make("table", {}, make("thead", {}, make("tr", {}, ...heads.map((head) => (head.nodeType ? head : make("th", {}, head))))), make("tbody", {}, ...rows)));
}

function summary() {
    const keys = [["p50", "p50"], ["p90", "p90"], ["p99", "p99"], ["p999", "p99.9"], ["max", "max"]];
    const rows = targets.map((target) =>
        make("tr", {}, named(target), cell(count(target.requests)), cell(`${count(target.rate)}/s`), ...keys.map(([key]) => cell(time(target.latency[key]))), cell(count(target.errors), target.errors ? { class: "wrong" } : {}), cell(`${bytes(target.bytes / target.seconds)}/s`)),
    );
    for (const added of data.added)
        rows.push(make("tr", { class: "sub" }, named(targets.find((target) => target.name === added.target), `${added.target} adds`), cell(""), cell(""), ...keys.map(([key]) => cell(signed(added.latency[key]))), cell(""), cell("")));
    const note = data.added.length ? "Latency counts from when a request was due. “adds” is the difference to the direct run at the same quantile." : "Latency counts from when a request was due to the end of its answer.";
    return card("Results", note, true, table(["target", "requests", "answers", ...keys.map(([, name]) => name), "errors", "received"], rows));
}

function operations() {
    const rows = targets.flatMap((target) =>
        target.operations.map((operation) =>
            make("tr", operation.request ? {} : { class: "sub" }, named(target, targets.length > 1 ? `${target.name}: ${operation.name}` : operation.name), cell(count(operation.good)), cell(`${rate(operation.rate)}/s`), cell(count(operation.errors), operation.errors ? { class: "wrong" } : {}), ...["p50", "p90", "p99", "p999", "max"].map((key) => cell(time(operation.latency[key])))),
        ),
    );
    return card("Operations", "Grey ones are no requests of their own: they are parts of requests, or several together.", true, table(["operation", "good", "a second", "errors", "p50", "p90", "p99", "p99.9", "max"], rows));
}

function errors() {
    const rows = targets.flatMap((target) => target.errors_by_kind.map((error) => make("tr", {}, named(target), cell(error.kind, { class: "left" }), cell(count(error.count)), cell(error.first, { class: "long left" }))));
    return card("Errors by kind", "", true, table(["target", make("th", { class: "left" }, "kind"), "count", make("th", { class: "left" }, "the first one said")], rows));
}

function thresholds() {
    const rows = data.thresholds.map((one) =>
        make("tr", {}, named(targets.find((target) => target.name === one.target) ?? targets[0], one.target), cell(one.what, { class: "left" }), cell(one.wanted), cell(one.found), cell(one.passed ? "passed" : "failed", { class: one.passed ? "right" : "wrong" })),
    );
    return card("Thresholds", "", true, table(["target", make("th", { class: "left" }, "what"), "wanted", "found", ""], rows));
}

function generator() {
    const rows = targets.map((target) => {
        const own = target.generator;
        return make("tr", {}, named(target), cell(own.driver), cell(own.threads), cell(time(own.cpu_ns_per_request)), cell(percent(own.busy), own.busy > 0.9 ? { class: "wrong" } : {}), cell(own.late ? `${time(own.late.p50)} / ${time(own.late.p99)}` : "–"), cell(count(target.unsent), target.unsent ? { class: "wrong" } : {}));
    });
    const busy = targets.some((target) => target.generator.busy > 0.9);
    const note = busy ? "The generator itself was at its limit: these are no figures of the target." : "Late: how long after it was due a request left that somebody waited to send.";
    const made = card("The generator", note, true, table(["target", "driver", "threads", "CPU a request", "busy", "late p50 / p99", "unsent"], rows));
    if (busy) made.classList.add("warning");
    return made;
}

function roundTable() {
    const rows = targets.flatMap((target) => target.rounds.map((round, i) => make("tr", {}, named(target, `${target.name}, ${i + 1}`), cell(`${count(round.rate)}/s`), cell(time(round.p50)), cell(time(round.p99)), cell(count(round.errors)))));
    return card("Rounds", "All targets in turn; whoever is first is another one each time.", true, table(["round", "answers", "p50", "p99", "errors"], rows));
}

// --- the page

function head() {
    const scenario = data.scenario;
    const paces = scenario.users.map((users) => {
        const pace = users.pace;
        const said = pace.loop === "closed" ? "closed loop" : pace.loop === "open" ? `${count(pace.rate)}/s${pace.arrivals === "poisson" ? " at random" : ""}` : `ramp ${count(pace.from)} to ${count(pace.to)}/s`;
        return `${scenario.users.length > 1 ? `${users.name}: ` : ""}${count(users.connections)} connections, ${said}, MCP ${users.version}`;
    });
    const facts = [...paces, `${scenario.duration_s} s after ${scenario.warmup_s} s of warm-up`, data.started.replace("T", " ").replace("Z", " UTC"), `Linux ${data.generator.kernel}, ${data.generator.cpus} CPUs`, `loadtest ${data.generator.version}`];
    const toggle = make("button", { type: "button", onclick: () => {
        const root = document.documentElement;
        const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
        root.dataset.theme = dark ? "light" : "dark";
    } }, "Light / dark");
    return make(
        "header",
        {},
        make(
            "div",
            {},
            make("h1", {}, scenario.name, make("span", { class: `badge ${data.passed ? "passed" : "failed"}` }, data.passed ? "passed" : "failed")),
            make("p", { class: "about" }, scenario.about),
            make("p", { class: "meta" }, ...facts.map((fact) => make("span", {}, fact))),
        ),
        toggle,
    );
}

function tile(target) {
    const facts = [["p50", time(target.latency.p50)], ["p99", time(target.latency.p99)], ["p99.9", time(target.latency.p999)], ["errors", count(target.errors)]];
    return make(
        "section",
        { class: "tile", colour: target.colour },
        make("div", { class: "name" }, target.name),
        make("div", { class: "url", title: target.url }, target.url),
        make("div", { class: "rate" }, count(target.rate), make("small", {}, target.events ? `answers a second, ${count(target.events / target.seconds)} events` : "answers a second")),
        make("dl", { class: "facts" }, ...facts.flatMap(([name, value]) => [make("dt", {}, name), make("dd", name === "errors" && target.errors ? { class: "wrong" } : {}, value)])),
    );
}

const some = (test) => targets.some(test);
const halves = [
    latencyByPercentile(),
    distribution(),
    ...(some((target) => target.steps.length) ? ramp() : []),
    throughput(),
    some((target) => target.events) ? eventsOverTime() : null,
    some((target) => target.errors) ? errorsOverTime() : null,
    connectionsOverTime(),
].filter(Boolean);
// No hole at the end.
if (halves.length % 2) halves.at(-1).classList.add("wide");
const tables = [
    operations(),
    some((target) => target.errors_by_kind.length) ? errors() : null,
    some((target) => target.rounds.length > 1) ? roundTable() : null,
    thresholds(),
    generator(),
];
page.replaceChildren(
    head(),
    make("div", { class: "tiles" }, ...targets.map(tile)),
    make("div", { class: "grid" }, summary(), latencyOverTime(), ...halves, ...tables.filter(Boolean)),
);
