// Opens the page that is named with each library, in each way that docs/examples/browser/README.md names.
const { chromium } = require("playwright-core");
const puppeteer = require("puppeteer");

const WAYS = {
  "playwright, channel": () => chromium.launch({ channel: "chrome" }),
  "playwright, path": () => chromium.launch({ executablePath: process.env.PLAYWRIGHT_CHROMIUM_EXECUTABLE_PATH }),
  "puppeteer": () => puppeteer.launch(),
  "puppeteer, channel": () => puppeteer.launch({ channel: "chrome" }),
};

(async () => {
  for (const [way, launch] of Object.entries(WAYS)) {
    const browser = await launch();
    const page = await browser.newPage();
    await page.goto(process.argv[2]);
    console.log(`${way}: ${await page.title()}`);
    await browser.close();
  }
})();
