// Usage: node report.mjs CHROMIUM PAGE.html; prints, as JSON, what the page says and does.
import { pathToFileURL } from "node:url";
import { chromium } from "playwright-core";

const [executablePath, file] = process.argv.slice(2);
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu"] });

async function opened(width, colorScheme = "light") {
  const page = await browser.newPage({ viewport: { width, height: 900 }, colorScheme });
  const heard = { requests: [], complaints: [] };
  page.on("request", (request) => heard.requests.push(request.url()));
  page.on("console", (message) => heard.complaints.push(message.text()));
  page.on("pageerror", (problem) => heard.complaints.push(problem.message));
  await page.goto(pathToFileURL(file).href);
  await page.waitForSelector("body[data-ready]");
  return { page, heard };
}

const settled = (page) => page.waitForTimeout(150); // a chart draws in the next frames

// runs in the page: what stands beside the slider, and where the charts mark it
const readings = () => {
  const text = (what) => document.querySelector(`[data-shows="${what}"]`).textContent;
  return {
    tradeoff: text("tradeoff"), cost: text("cost"), loss: text("loss"),
    stops: Object.fromEntries([...document.querySelectorAll(".stops li")].map(
      (item) => [item.dataset.stage, item.querySelector(".share").textContent])),
    says: document.querySelector(".dial input").getAttribute("aria-valuetext"),
    row: [...document.querySelectorAll("tr[aria-current] > *")].map((cell) => cell.textContent),
    mark: document.querySelector("#s0-exits .role-mark.mark-rule line")?.getAttribute("transform"),
  };
};

// runs in the page: names that can be seen, and pairs of them that cross
const names = () => {
  const seen = [...document.querySelectorAll("#s0-frontier .mark-text text")].filter(
    (text) => text.closest(".role-mark") && text.textContent && text.getAttribute("opacity") !== "0");
  const boxes = seen.map((text) => [text.textContent, text.getBoundingClientRect()]);
  const crossing = [];
  boxes.forEach(([one, a], i) => boxes.slice(i + 1).forEach(([other, b]) => {
    if (a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom) {
      crossing.push([one, other]);
    }
  }));
  return { names: boxes.map(([name]) => name), crossing };
};

// runs in the page: the lowest contrast of text with what is behind it, as WCAG 2 counts it
const contrast = () => {
  const rgba = (colour) => colour.match(/[\d.]+/g).map(Number);
  const light = (colour) => {
    const [r, g, b] = rgba(colour).map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if ((rgba(colour)[3] ?? 1) > 0) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const found = [];
  for (const element of document.querySelectorAll("body *:not(script)")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const colour = element instanceof SVGElement ? style.fill : style.color;
    const [a, b] = [light(colour), light(behind(element))].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), element.textContent.trim().slice(0, 40)]);
  }
  return found.sort((x, y) => x[0] - y[0])[0];
};

const curves = () => document.querySelectorAll("#s0-frontier .mark-line path").length;

async function turned(page) {
  const slider = page.locator(".dial input");
  const found = { start: await page.evaluate(readings) };
  await slider.focus();
  for (const key of ["Home", "ArrowRight", "End"]) {
    await page.keyboard.press(key);
    await settled(page);
    found[key] = await page.evaluate(readings);
  }
  return found;
}

async function toggled(page) {
  const found = { first: await page.evaluate(curves), names: await page.evaluate(names) };
  await page.locator(".legend button").focus();
  await page.keyboard.press("Enter");
  await settled(page);
  found.all = await page.evaluate(curves);
  found.pressed = await page.locator(".legend button").getAttribute("aria-pressed");
  found.crowded = await page.evaluate(names);
  await page.locator(".legend input").first().focus();
  await page.keyboard.press("Space");
  await settled(page);
  found.without = await page.evaluate(curves);
  return found;
}

async function tabbed(page) {
  const stops = [];
  await page.evaluate(() => document.activeElement.blur());
  for (let presses = 0; presses < 200; presses++) {
    await page.keyboard.press("Tab");
    const at = await page.evaluate(() => {
      const now = document.activeElement;
      if (now === document.body) return null;
      return [now.tagName.toLowerCase(), getComputedStyle(now).outlineStyle !== "none"];
    });
    if (at === null) break;
    stops.push(at);
  }
  return stops;
}

// runs in the page: what has no name for those who do not see it
const unnamed = () => [
  ...[...document.querySelectorAll("input")].filter((input) => !input.labels.length),
  ...[...document.querySelectorAll("img")].filter((image) => !image.alt),
  ...[...document.querySelectorAll("figure, section, [role=region], [role=group]")].filter(
    (part) => part.tagName !== "g" && !part.getAttribute("aria-label") &&
      !document.getElementById(part.getAttribute("aria-labelledby"))?.textContent.trim() &&
      !part.getAttribute("aria-roledescription")),
].map((element) => element.outerHTML.slice(0, 80));

const onPaper = () => ({
  tables: [...document.querySelectorAll("table")].filter((table) => !table.checkVisibility({ contentVisibilityAuto: true })).length,
  settings: document.querySelector("#s0-dial-table").getBoundingClientRect().height > 0,
  slider: document.querySelector(".dial input").checkVisibility(),
});

try {
  const found = {};
  const { page, heard } = await opened(1100);
  found.heard = heard;
  found.numbers = await page.locator(".numbers > div").evaluateAll((boxes) => boxes.map((box) =>
    [box.querySelector("dt").textContent, box.querySelector(".value").textContent]));
  found.unnamed = await page.evaluate(unnamed);
  found.tabbed = await tabbed(page);
  found.dial = await turned(page);
  found.legend = await toggled(page);
  found.light = await page.evaluate(contrast);
  found.hacked = await page.evaluate(() => window.hacked ?? null);
  found.pictures = await page.locator(".examples img").evaluateAll((all) => all.map((i) => i.naturalWidth));
  await page.emulateMedia({ media: "print" });
  await settled(page);
  found.print = await page.evaluate(onPaper);
  const small = await opened(360, "dark");
  found.dark = await small.page.evaluate(contrast);
  found.paper = await small.page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  found.wide = await small.page.evaluate(() => document.documentElement.scrollWidth);
  found.narrow = await small.page.evaluate(names);
  console.log(JSON.stringify(found));
} finally {
  await browser.close();
}
