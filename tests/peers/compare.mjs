// Run the conformance suite against a server directly and through each of some proxies, and compare check by check: a
// dropped header turns checks into warnings or skips and adds no failure, so counts would hide it.
// usage: compare.mjs CONFORMANCE REQUIREMENTS DIRECTORY DIRECT-URL PROXY-URL...
import { spawn } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";

const [conformance, requirements, directory, ...urls] = process.argv.slice(2);

async function run(url, name) {
  const out = join(directory, name);
  mkdirSync(out, { recursive: true });
  const args = [conformance, "server", "--url", url, "--requirements", requirements, "-o", out];
  const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "pipe"] });
  let said = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (piece) => (said += piece));
  await new Promise((resolve) => child.on("close", resolve));
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
  const total = said.match(/Total: (\d+) passed, (\d+) failed/);
  if (total === null) throw new Error(`no total of ${url}:\n${said}`);
  return { checks, passed: Number(total[1]), failed: Number(total[2]) };
}

// One after the other: some scenarios measure time.
const direct = await run(urls[0], "direct");
let same = true;
for (const [index, url] of urls.slice(1).entries()) {
  const through = await run(url, `through-${index}`);
  for (const key of [...new Set([...direct.checks.keys(), ...through.checks.keys()])].sort()) {
    if (direct.checks.get(key) !== through.checks.get(key)) {
      same = false;
      console.log(`differs: ${key}: direct ${direct.checks.get(key)}, through the proxy ${through.checks.get(key)}`);
    }
  }
}
console.log(`${requirements}: ${direct.checks.size} checks, ${direct.passed} passed, ${direct.failed} failed directly`);
process.exit(same ? 0 : 1);
