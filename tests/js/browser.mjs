// Usage: node browser.mjs CHROMIUM URL; opens URL in a real browser and prints what it answers.
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";

const [executablePath, url] = process.argv.slice(2);
const context = await chromium.launchPersistentContext(mkdtempSync(join(tmpdir(), "offramp-")), {
  executablePath,
  headless: true,
  args: [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
  ],
});
try {
  const page = await context.newPage();
  page.on("pageerror", (problem) => console.error(problem.message));
  await page.goto(url);
  console.log(JSON.stringify(await page.evaluate(() => window.answers)));
} finally {
  await context.close();
}
