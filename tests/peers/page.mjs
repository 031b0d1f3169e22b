// A browser opens the page of a tape: page.mjs MODULES BROWSER PAGE [SCREENSHOTS]; prints what it saw.
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [modules, executablePath, file, shots] = process.argv.slice(2);
const { chromium } = createRequire(join(modules, "x.js"))("playwright-core");
const args = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"];
const browser = await chromium.launch({ executablePath, args });
const seen = { complaints: [], requests: [] };

const open = async (width, height, colorScheme) => {
  const page = await browser.newPage({ viewport: { width, height }, colorScheme });
  page.on("console", (message) => seen.complaints.push(message.text()));
  page.on("pageerror", (error) => seen.complaints.push(String(error)));
  page.on("dialog", (dialog) => (seen.complaints.push("a dialog"), dialog.dismiss()));
  page.on("request", (request) => seen.requests.push(request.url().replace(/^file:.*\//, "")));
  await page.goto(pathToFileURL(file).href);
  await page.waitForSelector(".row");
  return page;
};
const shot = (page, name) => (shots ? page.screenshot({ path: join(shots, `${name}.png`) }) : undefined);
const labels = (page) => page.locator(".row:not(.pause) .what").allTextContents();

const page = await open(1440, 900, "light");
seen.title = await page.title();
seen.drawn = (await page.locator(".row").count()) < 80;
seen.rows = await page.locator("#count").textContent();
seen.first = (await labels(page)).slice(0, 3);
await shot(page, "wide-light");
// A row in full, and its counterpart.
await page.locator(".row.request").nth(1).click();
seen.detail = await page.locator("#detail h3").textContent();
seen.paired = await page.locator(".row.pair").count();
await page.getByText("Go to the answer").click();
seen.answer = await page.locator("#detail dd").first().textContent();
seen.folded = await page.locator("#detail .json details").count();
await shot(page, "detail");
await page.keyboard.press("Escape");
seen.closed = await page.locator("#detail").isHidden();
// What is looked for, and what failed.
await page.fill("#search", "needle-in-the-tape");
await page.waitForFunction(() => document.querySelector("#count").textContent === "1 row");
seen.marked = await page.locator("mark").first().textContent();
await page.keyboard.press("Escape");
await page.click("#errors");
seen.errors = (await page.locator(".row:not(.pause)").count()) > 0 && (await page.locator(".row.answer:not(.bad)").count()) === 0;
await page.click("#errors");
// The end of the tape.
await page.evaluate(() => (document.querySelector("#scroll").scrollTop = 1e9));
await page.waitForFunction(() => [...document.querySelectorAll(".row")].some((row) => row.dataset.number > 100));
await shot(page, "end");

const dark = await open(1280, 720, "dark");
seen.dark = await dark.evaluate(() => getComputedStyle(document.body).backgroundColor);
await dark.click("#theme");
seen.light = await dark.evaluate(() => getComputedStyle(document.body).backgroundColor);
await dark.click("#theme");
await shot(dark, "wide-dark");

const narrow = await open(390, 800, "dark");
seen.fits = await narrow.evaluate(() => document.documentElement.scrollWidth <= innerWidth);
await narrow.locator(".row.request").first().click();
seen.sheet = await narrow.locator("#detail").isVisible();
await shot(narrow, "narrow");
await browser.close();
console.log(JSON.stringify(seen));
