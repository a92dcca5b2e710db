// The playground's page in a real browser, and landfall-demo beside it.
import { execFile } from "node:child_process"
import { existsSync } from "node:fs"
import { join } from "node:path"
import { promisify } from "node:util"
import { chromium } from "playwright-core"
import { expect, onTestFinished } from "vitest"
import { binary } from "./server.mjs"
import { scratch } from "./world.mjs"

const CHROMIUM = process.env.LANDFALL_CHROMIUM ?? "/usr/bin/chromium"
/** Why no browser test can run here; nothing if they can. */
export const noBrowser = existsSync(CHROMIUM) ? "" : `no browser at ${CHROMIUM}; name one in LANDFALL_CHROMIUM`

/** How long a test waits for what should happen at once. Not a figure. */
const PATIENCE_MS = 60_000

export const WIDE = { width: 1280, height: 800 }
export const NARROW = { width: 390, height: 844 }

/** A browser of the test's own. */
export async function startBrowser() {
  // Nothing calls home. As root, which tests in a container are, Chromium cannot build its sandbox.
  const quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
  const args = process.getuid() === 0 ? [...quiet, "--no-sandbox"] : quiet
  const browser = await chromium.launch({ executablePath: CHROMIUM, args })
  onTestFinished(() => browser.close())
  return browser
}

/**
 * Somebody with the page open, in a profile of his own. Whatever the page complains of, and whatever
 * it asks of anybody but its relay, fails the test.
 */
export async function visitor(browser, address, viewport = WIDE, more = {}) {
  const context = await browser.newContext({ viewport, ...more })
  const page = await context.newPage()
  page.setDefaultTimeout(PATIENCE_MS)
  const complaints = []
  page.on("pageerror", error => complaints.push(String(error)))
  page.on("console", message => {
    // A relay that was killed by the test, and a page that was switched off while it connected.
    const refused = /ERR_CONNECTION_REFUSED|ERR_CONNECTION_RESET|ERR_INCOMPLETE_CHUNKED_ENCODING|ERR_EMPTY_RESPONSE|closed before the connection is established/.test(message.text())
    if (["error", "warning"].includes(message.type()) && !refused) complaints.push(message.text())
  })
  const { host } = new URL(address)
  page.on("request", request => {
    if (new URL(request.url()).host !== host) complaints.push(`asked for ${request.url()}`)
  })
  onTestFinished(() => expect(complaints).toEqual([]))
  await page.goto(address)
  await page.locator("#new:enabled").waitFor({ state: "attached" })
  return page
}

/** The page of a relay. */
export const pageOf = url => url.replace(/^ws/, "http") + "/"

/** Makes a note by the keyboard alone. */
export async function write(page, title, body) {
  await page.locator("#new").press("Enter")
  await page.keyboard.type(title)
  await page.keyboard.press("Enter")
  await page.keyboard.insertText(body)
}

/** Waits until an element says something. */
export async function says(page, selector, text) {
  await page.locator(selector).filter({ hasText: text }).first().waitFor()
}

/** A text as its editor shows it: `body` or `title`. All of it only while it fits the screen. */
export const textOf = (page, id = "body") =>
  page.evaluate(id => {
    const lines = [...document.querySelectorAll(`#${id} > .cm-line`)]
    return lines.map(line => (line.querySelector(".cm-placeholder") ? "" : line.textContent)).join("\n")
  }, id)

/** Waits until the note's text is as wanted. */
export async function holds(page, text) {
  await expect.poll(() => textOf(page), { timeout: PATIENCE_MS, interval: 20 }).toBe(text)
}

/** Waits until the list has so many rows. */
export async function lists(page, count) {
  const rows = page.locator("#list li")
  await expect.poll(() => rows.count(), { timeout: PATIENCE_MS, interval: 20 }).toBe(count)
}

/** Puts the caret into the note's text, by the keyboard. */
export async function caretAt(page, line, column) {
  await page.locator("#body").press("Control+Home")
  for (let at = 0; at < line; at++) await page.keyboard.press("ArrowDown")
  await page.keyboard.press("Home")
  for (let at = 0; at < column; at++) await page.keyboard.press("ArrowRight")
}

/** A notebook of landfall-demo: runs a command of it, and gives what that printed. */
export function notebook(url, space = "default") {
  const env = {
    ...process.env,
    LANDFALL_RELAY: url,
    LANDFALL_SPACE: space,
    LANDFALL_STORE: join(scratch(), "notes.landfall"),
  }
  return async (...args) => (await promisify(execFile)(binary("landfall-demo"), args, { env })).stdout
}

/** Waits until the page shows what has happened. */
export const drawn = page =>
  page.evaluate(() => new Promise(resolve => requestAnimationFrame(() => requestAnimationFrame(resolve))))
