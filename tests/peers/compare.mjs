// Run the conformance suite against a server directly and through the proxy, and compare check by check: a dropped
// header turns checks into warnings or skips and adds no failure, so counts would hide it.
// usage: compare.mjs CONFORMANCE DIRECT-URL PROXY-URL REQUIREMENTS DIRECTORY
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";

const [conformance, direct, proxy, requirements, directory] = process.argv.slice(2);

function run(url, name) {
  const out = join(directory, name);
  rmSync(out, { recursive: true, force: true });
  mkdirSync(out, { recursive: true });
  const args = [conformance, "server", "--url", url, "--requirements", requirements, "-o", out];
  const done = spawnSync(process.execPath, args, { encoding: "utf8", timeout: 120_000 });
  const checks = new Map();
  for (const folder of readdirSync(out)) {
    const file = join(out, folder, "checks.json");
    if (!existsSync(file)) continue;
    const scenario = folder.replace(/-\d{4}-\d{2}-\d{2}T.*$/, "");
    const seen = new Map();
    for (const check of JSON.parse(readFileSync(file, "utf8"))) {
      const count = (seen.get(check.id) ?? 0) + 1;
      seen.set(check.id, count);
      checks.set(`${scenario} / ${check.id} #${count}`, check.status);
    }
  }
  if (checks.size === 0) throw new Error(`no checks of ${url}:\n${done.stdout}\n${done.stderr}`);
  return checks;
}

const [theirs, ours] = [run(direct, "direct"), run(proxy, "proxy")];
let passed = 0;
let failed = 0;
for (const key of [...new Set([...theirs.keys(), ...ours.keys()])].sort()) {
  if (theirs.get(key) === ours.get(key)) {
    passed += 1;
  } else {
    failed += 1;
    console.log(`differs: ${key}: direct ${theirs.get(key)}, through the proxy ${ours.get(key)}`);
  }
}
const good = [...theirs.values()].filter((status) => status === "SUCCESS").length;
console.log(`${requirements}: ${theirs.size} checks, ${good} succeed directly`);
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed === 0 ? 0 : 1);
