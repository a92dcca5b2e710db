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
/** Why browser tests cannot run here; empty if they can. */
export const noBrowser = existsSync(CHROMIUM) ? "" : `no browser at ${CHROMIUM}; name one in LANDFALL_CHROMIUM`

/** Time limit for what should happen immediately. Not a measurement. */
const PATIENCE_MS = 60_000

export const WIDE = { width: 1280, height: 800 }
export const NARROW = { width: 390, height: 844 }

/** A browser for one test. */
export async function startBrowser() {
  // No background requests. As root, as in a container, Chromium cannot create its sandbox.
  const quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
  const args = process.getuid() === 0 ? [...quiet, "--no-sandbox"] : quiet
  const browser = await chromium.launch({ executablePath: CHROMIUM, args })
  onTestFinished(() => browser.close())
  return browser
}

/**
 * A user with the page open, in a separate profile. Errors of the page, and requests to other hosts than
 * its relay, fail the test.
 */
export async function visitor(browser, address, viewport = WIDE, more = {}) {
  const context = await browser.newContext({ viewport, ...more })
  const page = await context.newPage()
  page.setDefaultTimeout(PATIENCE_MS)
  const complaints = []
  page.on("pageerror", error => complaints.push(String(error)))
  page.on("console", message => {
    // Expected: the test killed the relay, or switched the page off while it connected.
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

/** Creates a note by the keyboard alone. */
export async function write(page, title, body) {
  await page.locator("#new").press("Enter")
  await page.keyboard.type(title)
  await page.keyboard.press("Enter")
  await page.keyboard.insertText(body)
}

/** Waits until an element contains a text. */
export async function says(page, selector, text) {
  await page.locator(selector).filter({ hasText: text }).first().waitFor()
}

/** A text as its editor shows it: `body` or `title`. Complete only while it fits the screen. */
export const textOf = (page, id = "body") =>
  page.evaluate(id => {
    const lines = [...document.querySelectorAll(`#${id} > .cm-line`)]
    return lines.map(line => (line.querySelector(".cm-placeholder") ? "" : line.textContent)).join("\n")
  }, id)

/** Waits until the note has this text. */
export async function holds(page, text) {
  await expect.poll(() => textOf(page), { timeout: PATIENCE_MS, interval: 20 }).toBe(text)
}

/** Waits until the list has `count` rows. */
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

/** A notebook of landfall-demo: runs a command and returns its output. */
export function notebook(url, space = "default") {
  const env = {
    ...process.env,
    LANDFALL_RELAY: url,
    LANDFALL_SPACE: space,
    LANDFALL_STORE: join(scratch(), "notes.landfall"),
  }
  return async (...args) => (await promisify(execFile)(binary("landfall-demo"), args, { env })).stdout
}

/** Waits until the page has redrawn. */
export const drawn = page =>
  page.evaluate(() => new Promise(resolve => requestAnimationFrame(() => requestAnimationFrame(resolve))))
