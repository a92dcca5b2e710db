// axe's findings on the playground: at two sizes, light and dark, in each of its states.
import axe from "axe-core"
import { describe, expect, test } from "vitest"
import { caretAt, drawn, NARROW, noBrowser, notebook, pageOf, says, startBrowser, visitor, WIDE, write } from "../support/playground.mjs"
import { isReference } from "../support/server.mjs"
import { Relay } from "../support/world.mjs"

if (noBrowser && process.env.LANDFALL_CI) throw new Error(noBrowser)
if (noBrowser) console.log(`SKIPPED: the accessibility of the page: ${noBrowser}`)

const SAFE = "On the relay’s disk"

const SCREENS = [
  ["wide", WIDE, "light"],
  ["wide and dark", WIDE, "dark"],
  ["narrow", NARROW, "light"],
  ["narrow and dark", NARROW, "dark"],
]

/** Fails with axe's findings and their places. */
async function isAccessible(page, state) {
  await drawn(page)
  // Not as a script element, which the page's security policy forbids.
  await page.evaluate(axe.source)
  const { violations, passes } = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations", "passes"] }))
  const found = violations.map(({ id, impact, nodes }) => `${impact}: ${id} of ${nodes.map(node => node.target.join(" ")).join(", ")}`)
  expect(found, state).toEqual([])
  // axe checked colours and names, and not an empty page.
  const looked = passes.map(({ id }) => id)
  expect(looked, state).toEqual(expect.arrayContaining(["color-contrast", "button-name", "aria-allowed-attr"]))
}

// automerge-repo's own server has no page.
describe.skipIf(noBrowser || isReference)("the page, as axe sees it", () => {
  for (const [name, viewport, colorScheme] of SCREENS) {
    test(name, async () => {
      const relay = await Relay.start()
      const demo = notebook(relay.url)
      const browser = await startBrowser()
      const page = await visitor(browser, pageOf(relay.url), viewport, { colorScheme })
      await says(page, "#empty", "No notes here yet")
      await isAccessible(page, "nothing here yet")

      await write(page, "Ferry times", "out 07:40\nback 16:05")
      await says(page, "#saved", SAFE)
      await page.locator("#home").click()
      // A link is followed a moment after its click, and closes a note that is opened before that.
      await page.waitForFunction(() => !location.hash)
      await write(page, "Harbour walk", "Low tide is at 14:10.\nBring the binoculars.")
      await says(page, "#saved", SAFE)
      const other = await visitor(browser, page.url())
      await says(page, "#others li", "")
      await caretAt(other, 0, 3)
      await other.keyboard.press("Shift+End")
      await page.locator("#body-field .other-selection").first().waitFor({ state: "attached" })
      await isAccessible(page, "a note, open by another user too")

      await page.locator("#switch").press("Space")
      await page.locator("#body").press("Control+End")
      await page.keyboard.type(" And a coat.")
      await says(page, "#saved", "In this browser, not on the relay yet")
      await isAccessible(page, "offline, with something to send")
      await demo("sync")
      await demo("notes", "rm", "Harbour walk", "--yes")
      await page.locator("#switch").press("Space")
      await says(page, "#problem-text", "Your edits had not reached the relay")
      await page.locator("#save-new").waitFor()
      await isAccessible(page, "deleted elsewhere, with orphaned edits")

      await page.goto(`${pageOf(relay.url)}#`)
      await page.fill("#search", "ferry")
      await says(page, "#found", "1 found.")
      await isAccessible(page, "the list, searched")
      await page.locator("#list a", { hasText: "Ferry" }).click()
      await says(page, "#saved", SAFE)
      await page.locator("#delete").press("Enter")
      await says(page, "#notice-text", "will be deleted")
      await isAccessible(page, "a deletion that can be undone")
    })
  }
})
