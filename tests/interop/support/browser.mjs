// A headless Chromium, and the page that it opens, served on loopback.
import { existsSync } from "node:fs"
import { createServer } from "node:http"
import { fileURLToPath } from "node:url"
import { build } from "esbuild"
import { chromium } from "playwright-core"
import { onTestFinished } from "vitest"

export const CHROMIUM = process.env.LANDFALL_CHROMIUM ?? "/usr/bin/chromium"
export const hasChromium = existsSync(CHROMIUM)

/** Without the sandbox, which does not work as root, and without background requests of the browser. */
const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--no-first-run",
]

/** The URL of the test's page; a relay accepts its loopback origin by default. */
export async function servePage() {
  const { outputFiles } = await build({
    entryPoints: [fileURLToPath(new URL("page.mjs", import.meta.url))],
    bundle: true,
    format: "esm",
    platform: "browser",
    write: false,
    logLevel: "error",
  })
  const script = outputFiles[0].contents
  const server = createServer((request, response) => {
    const isScript = request.url === "/page.js"
    response.setHeader("content-type", isScript ? "text/javascript" : "text/html")
    response.end(isScript ? script : `<!doctype html><script type="module" src="/page.js"></script>`)
  })
  await new Promise(resolve => server.listen(0, "127.0.0.1", resolve))
  onTestFinished(() => {
    server.closeAllConnections()
    return new Promise(resolve => server.close(resolve))
  })
  return `http://127.0.0.1:${server.address().port}/`
}

/** A browser context with a page, like a user's profile. */
export async function openBrowser(url) {
  const browser = await chromium.launch({ executablePath: CHROMIUM, args: FLAGS })
  onTestFinished(() => browser.close())
  const context = await browser.newContext()
  return { context, page: await openPage(context, url) }
}

export async function openPage(context, url) {
  const page = await context.newPage()
  page.on("pageerror", error => console.log("the page threw:", error.message))
  await page.goto(url)
  await page.waitForFunction(() => window.app)
  return page
}
