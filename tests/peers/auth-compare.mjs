// Run the conformance suite's client scenarios `auth/*` directly and with a proxy between client and server, and tell
// where the checks differ: auth-compare.mjs CONFORMANCE CLIENT MODULES PROXY DIRECTORY DRIVER...
// Prints one JSON object. `direct`: per scenario the checks that passed and failed, and how the client ended; `url`: the
// same where the proxy has a name of its own (on the first driver). `differs`: checks that are not as they are directly
// where the server's name leads to the proxy (on each driver). `unseen`: scenarios of which a proxy saw nothing.
import { spawn } from "node:child_process";
import { mkdirSync, readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";

const [conformance, client, modules, proxy, directory, ...drivers] = process.argv.slice(2);

async function run(way, driver = "none") {
  const out = join(directory, `${way}-${driver}`);
  mkdirSync(out, { recursive: true });
  const command = [process.execPath, client, modules].join(" ");
  const args = [conformance, "client", "--suite", "all", "--timeout", "120000", "--command", command, "-o", out];
  const env = { ...process.env, AUTH_WAY: way, AUTH_DRIVER: driver, AUTH_PROXY: proxy };
  const child = spawn(process.execPath, args, { stdio: "ignore", env });
  await new Promise((resolve) => child.on("close", resolve));
  const scenarios = {};
  for (const folder of readdirSync(join(out, "auth")).sort()) {
    const file = (name) => readFileSync(join(out, "auth", folder, name), "utf8");
    const counts = {};
    const checks = {};
    for (const { id, status } of JSON.parse(file("checks.json"))) {
      counts[id] = (counts[id] ?? 0) + 1;
      checks[`${id} #${counts[id]}`] = status;
    }
    const said = file("stdout.txt");
    const { outcome, requests } = said === "" ? { outcome: file("stderr.txt"), requests: 0 } : JSON.parse(said);
    const number = (status) => Object.values(checks).filter((one) => one === status).length;
    const counted = ["SUCCESS", "FAILURE", "WARNING"].map(number);
    const result = `${counted[0]} passed, ${counted[1]} failed, ${counted[2]} warnings, ${outcome}`;
    scenarios[folder.replace(/-\d{4}-\d{2}-\d{2}T.*$/, "")] = { result, requests, checks };
  }
  return scenarios;
}

const [direct, url] = [await run("direct"), await run("url", drivers[0])];
const results = (scenarios) => Object.fromEntries(Object.entries(scenarios).map(([name, { result }]) => [name, result]));
const unseen = (scenarios) => Object.keys(scenarios).filter((name) => scenarios[name].requests === 0);
const report = { direct: results(direct), url: results(url), differs: [], unseen: unseen(url) };
for (const driver of drivers) {
  const through = await run("name", driver);
  report.unseen.push(...unseen(through));
  for (const name of Object.keys({ ...direct, ...through })) {
    const [before, after] = [direct[name], through[name]].map((one) => ({ end: one?.result, ...one?.checks }));
    for (const check of Object.keys({ ...before, ...after })) {
      const here = `${driver} ${name} / ${check}: ${before[check]} directly, ${after[check]} through the proxy`;
      if (before[check] !== after[check]) report.differs.push(here);
    }
  }
}
console.log(JSON.stringify(report, null, 1));
