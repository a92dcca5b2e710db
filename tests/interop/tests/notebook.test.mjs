// The playground's page with many notes, with other users, and without its relay: in a real browser, as the
// relay serves it.
import { mkdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { decode } from "cbor-x"
import { describe, expect, test } from "vitest"
import { caretAt, drawn, holds, NARROW, noBrowser, notebook, pageOf, says, startBrowser, textOf, visitor, write } from "../support/playground.mjs"
import { isReference } from "../support/server.mjs"
import { Relay, scratch } from "../support/world.mjs"

if (noBrowser && process.env.LANDFALL_CI) throw new Error(noBrowser)
if (noBrowser) console.log(`SKIPPED: the notebook in a browser: ${noBrowser}`)

const SAFE = "On the relay’s disk"

/** Imports `count` notes, `Note 1` first. */
async function importNotes(demo, count) {
  const folder = join(scratch(), "notes")
  mkdirSync(folder)
  for (let at = 1; at <= count; at++) {
    const name = `note-${String(at).padStart(4, "0")}.md`
    writeFileSync(join(folder, name), `# Note ${at}\n\nNumber ${at}, ${at % 2 ? "odd" : "even"}.\n`)
  }
  await demo("import", folder)
  await demo("sync")
}

const titles = page => page.locator("#list .row-title").allTextContents()

// automerge-repo's own server has no page.
describe.skipIf(noBrowser || isReference)("the notebook", () => {
  test("lists all notes, most recently changed first", async () => {
    const relay = await Relay.start()
    const demo = notebook(relay.url)
    await importNotes(demo, 301)
    const page = await visitor(await startBrowser(), pageOf(relay.url), NARROW)
    await says(page, "#count", "301")
    await says(page, "#list li:first-child", "Note 301")
    // An edited old note moves to the top, and so does a new one.
    await demo("notes", "append", "Note 7", "seven")
    await says(page, "#list li:first-child", "Note 7")
    await demo("notes", "new", "Fresh", "--text", "just now")
    await says(page, "#list li:first-child", "Fresh")
    await says(page, "#count", "302")
    await demo("notes", "rm", "Note 300", "--yes")
    await says(page, "#count", "301")
    // The row shows the heading above the line.
    await says(page, "#list li:nth-child(3) .row-line", "Number 301, odd.")
    expect((await titles(page)).slice(0, 4)).toEqual(["Fresh", "Note 7", "Note 301", "Note 299"])

    // Rows are created as the user scrolls.
    const last = page.locator("#list .row-title", { hasText: /^Note 1$/ })
    while ((await last.count()) === 0) await page.locator("#list li").last().scrollIntoViewIfNeeded()
    await last.click()
    await holds(page, "# Note 1\n\nNumber 1, odd.\n")
  })

  test("searches the notes in this browser, and shows how many that are", async () => {
    const relay = await Relay.start()
    const demo = notebook(relay.url)
    await importNotes(demo, 60)
    const page = await visitor(await startBrowser(), pageOf(relay.url))
    await page.fill("#search", "note 17")
    await says(page, "#found", "1 found. Searched: title and first 500 characters of all 60 notes.")
    expect(await titles(page)).toEqual(["Note 17"])
    await page.fill("#search", "EVEN")
    await says(page, "#found", "30 found")
    await page.fill("#search", "no such thing")
    await says(page, "#found", "Nothing found")
    await page.fill("#search", "")
    await says(page, "#list li:first-child", "Note 60")
    // The search covers stored notes without the relay, and does not claim to cover others.
    await expect.poll(() => storedTitles(page), { timeout: 60_000 }).toBe(60)
    await page.locator("#switch").press("Space")
    await says(page, "#status", "Offline")
    await page.goto("about:blank")
    await demo("notes", "new", "Not in this browser")
    await page.goto(pageOf(relay.url))
    await page.fill("#search", "note 17")
    await says(page, "#found", "1 found. Searched: title and first 500 characters of all 60 notes.")
  })

  test("shows how many notes were searched while others are not in this browser", async () => {
    const relay = await Relay.start()
    const demo = notebook(relay.url)
    await importNotes(demo, 20)
    const page = await visitor(await startBrowser(), pageOf(relay.url))
    await page.fill("#search", "note 17")
    await says(page, "#found", "Searched: title and first 500 characters of all 20 notes.")
    await expect.poll(() => storedTitles(page), { timeout: 60_000 }).toBe(20)
    await page.goto("about:blank")
    await demo("notes", "new", "Note 17 again")
    // The list arrives, but no document does.
    let isThere = false
    await page.routeWebSocket(/.*/, socket => void (isThere && socket.connectToServer()))
    await page.goto(pageOf(relay.url))
    await says(page, "#count", "21")
    await page.fill("#search", "note 17")
    await says(page, "#found", "1 found. Searched: title and first 500 characters of 20 of 21 notes. The others are not in this browser.")
    expect(await titles(page)).toEqual(["Note 17"])
    isThere = true
    await page.reload()
    await page.fill("#search", "note 17")
    await says(page, "#found", "2 found. Searched: title and first 500 characters of all 21 notes.")
  })

  test("reads each unopened note once, a few at a time", async () => {
    const relay = await Relay.start()
    await importNotes(notebook(relay.url), 120)
    // Messages are counted from the next page load on; this browser has stored nothing of its space.
    const page = await visitor(await startBrowser(), `${pageOf(relay.url)}spaces/empty`)
    const asked = new Map()
    const waiting = new Set()
    let most = 0
    await page.routeWebSocket(/.*/, socket => {
      const server = socket.connectToServer()
      socket.onMessage(frame => {
        const { type, documentId } = decode(frame)
        if (type === "request") {
          asked.set(documentId, (asked.get(documentId) ?? 0) + 1)
          most = Math.max(most, waiting.add(documentId).size)
        }
        server.send(frame)
      })
      server.onMessage(frame => {
        waiting.delete(decode(frame).documentId)
        socket.send(frame)
      })
    })
    await page.goto(pageOf(relay.url))
    await page.locator("#list li").first().waitFor()
    await page.fill("#search", "note 1")
    await says(page, "#found", "Searched: title and first 500 characters of all 120 notes.")
    expect(asked.size).toBe(120)
    expect([...asked.values()].filter(times => times !== 1)).toEqual([])
    // Sixteen visible ones, two in the background, and the open one.
    expect(most).toBeLessThanOrEqual(19)
    expect(most).toBeGreaterThan(1)
  })

  test("knows that the relay has a note that was evicted before it was opened", async () => {
    const relay = await Relay.start()
    await importNotes(notebook(relay.url), 8)
    const page = await visitor(await startBrowser(), pageOf(relay.url))
    await says(page, "#list li:first-child .row-line", "Number 8, even.")
    await says(page, "#list li:last-child .row-line", "Number 1, odd.")
    await expect.poll(() => storedTitles(page), { timeout: 60_000 }).toBe(8)
    // sleep: documents leave memory half a second after their titles are known, and nothing shows it.
    await page.waitForTimeout(1_500)
    for (let at = 1; at <= 8; at++) {
      await page.locator("#list .row-title", { hasText: `Note ${at}` }).click()
      await holds(page, `# Note ${at}\n\nNumber ${at}, ${at % 2 ? "odd" : "even"}.\n`)
      await says(page, "#saved", SAFE)
    }
  })

  test("requests the list only when something changed", async () => {
    const relay = await Relay.start()
    const demo = notebook(relay.url)
    await demo("notes", "new", "Old")
    const page = await visitor(await startBrowser(), pageOf(relay.url))
    await says(page, "#list", "Old")
    // The test controls the page's timers from the next load on.
    await page.clock.install()
    await page.reload()
    await says(page, "#status", "all on the relay")
    await page.clock.runFor(60_000)
    let asked = 0
    page.on("request", request => (asked += request.url().includes("/playground/documents") ? 1 : 0))
    await page.clock.runFor(60_000)
    expect(asked).toBe(0)
    await page.clock.resume()
    await demo("notes", "new", "New")
    await says(page, "#list", "New")
    expect(asked).toBeGreaterThan(0)
  })

  test("undoes only local edits", async () => {
    const relay = await Relay.start()
    const browser = await startBrowser()
    const ann = await visitor(browser, pageOf(relay.url))
    await write(ann, "Both", "middle")
    await says(ann, "#saved", SAFE)
    const ben = await visitor(browser, ann.url())
    await holds(ben, "middle")
    await ann.locator("#body").press("Control+End")
    await ann.keyboard.type(" ann")
    await holds(ben, "middle ann")
    await ben.locator("#body").press("Control+Home")
    await ben.keyboard.type("ben ")
    await holds(ann, "ben middle ann")
    await ann.keyboard.press("Control+z")
    await holds(ann, "ben middle")
    await holds(ben, "ben middle")
    await ben.keyboard.type("and ")
    await holds(ann, "ben and middle")
    await ann.keyboard.press("Control+y")
    await holds(ann, "ben and middle ann")
    await holds(ben, "ben and middle ann")
    // By the buttons too, which are disabled if there is nothing to undo.
    expect(await ann.locator("#redo").isDisabled()).toBe(true)
    await ann.locator("#undo").click()
    await ann.locator("#undo").click()
    await holds(ann, "ben and ")
    expect(await ann.locator("#undo").isDisabled(), "Ann cannot undo Ben's edit").toBe(true)
    await holds(ben, "ben and ")
  })

  test("shows others' carets, each in one colour everywhere", async () => {
    const relay = await Relay.start()
    const browser = await startBrowser()
    const ann = await visitor(browser, pageOf(relay.url))
    await write(ann, "Harbour", "low tide\nat two")
    await ann.fill("#name", "Ann")
    await ann.keyboard.press("Enter")
    const ben = await visitor(browser, ann.url(), NARROW)
    await holds(ben, "low tide\nat two")
    await ben.fill("#name", "Ben")
    await ben.keyboard.press("Enter")
    await says(ann, "#others", "Ben")
    await caretAt(ben, 1, 2)
    const caret = ann.locator("#body-field .other-caret", { hasText: "Ben" })
    await caret.waitFor({ state: "attached" })
    const hue = await ben.locator("#self").getAttribute("data-hue")
    expect(await caret.getAttribute("data-hue")).toBe(hue)
    expect(await ann.locator("#others li", { hasText: "Ben" }).getAttribute("data-hue")).toBe(hue)
    // The caret stays behind "at" when that moves.
    const behind = async () => {
      const [is, wanted] = [await caret.boundingBox(), await edgeOf(ann, "at")]
      return Math.abs(is.x - wanted.x) < 2 && Math.abs(is.y - wanted.y) < 8
    }
    await expect.poll(behind).toBe(true)
    await ann.locator("#body").press("Control+Home")
    await ann.keyboard.type("Mind:\n\n")
    await holds(ben, "Mind:\n\nlow tide\nat two")
    await expect.poll(behind).toBe(true)
    await ben.locator("#body").press("Shift+Control+End")
    await ann.locator(`#body-field .other-selection[data-hue="${hue}"]`).waitFor({ state: "attached" })
    expect(await textOf(ann), "decorations are not part of the text").toBe("Mind:\n\nlow tide\nat two")
    await ben.close()
    await caret.waitFor({ state: "detached" })
  })

  test("deletes a note for everyone, unless it is undone", async () => {
    const relay = await Relay.start()
    const demo = notebook(relay.url)
    const browser = await startBrowser()
    const ann = await visitor(browser, pageOf(relay.url))
    await write(ann, "Kept", "still here")
    await write(ann, "Doomed", "not for long")
    await says(ann, "#saved", SAFE)
    const ben = await visitor(browser, ann.url())
    await holds(ben, "not for long")
    await ann.locator("#delete").press("Enter")
    await says(ann, "#notice-text", "“Doomed” will be deleted")
    expect(await titles(ann)).toEqual(["Kept"])
    await ann.locator("#take-back").press("Enter")
    await holds(ann, "not for long")
    expect(await titles(ann)).toEqual(["Doomed", "Kept"])

    // Then permanently, after the delay.
    await ann.locator("#delete").press("Enter")
    await says(ben, "#saved", "Deleted")
    expect(await titles(ann)).toEqual(["Kept"])
    await says(ann, "#status", "all on the relay")
    // Or when the page is left, at the latest when it is opened again.
    await ann.locator("#list a", { hasText: "Kept" }).click()
    await holds(ann, "still here")
    await ann.locator("#delete").press("Enter")
    await says(ann, "#empty", "No notes here yet")
    await ann.goto("about:blank")
    await ann.goto(pageOf(relay.url))
    await says(ann, "#empty", "No notes here yet")
    await says(ben, "#empty", "No notes here yet")
    await demo("sync")
    expect(await demo("-q", "notes", "list")).not.toContain("still here")
  })

  test("copies an address that opens the note", async () => {
    const relay = await Relay.start()
    const browser = await startBrowser()
    const permissions = ["clipboard-read", "clipboard-write"]
    const ann = await visitor(browser, `${pageOf(relay.url)}spaces/team`, undefined, { permissions })
    await write(ann, "Shared", "by a link")
    await says(ann, "#saved", SAFE)
    await ann.locator("#copy").press("Enter")
    await says(ann, "#copy", "Copied")
    const link = await ann.evaluate(() => navigator.clipboard.readText())
    const ben = await visitor(browser, link)
    await holds(ben, "by a link")

    // Also of a note that the relay does not have yet.
    await ann.locator("#switch").press("Space")
    await says(ann, "#status", "Offline")
    await write(ann, "Later", "as soon as it is there")
    await ben.goto(ann.url())
    await says(ben, "#problem-text", "The relay does not have this note")
    await ann.locator("#switch").press("Space")
    await says(ann, "#saved", SAFE)
    await holds(ben, "as soon as it is there")
  })

  test("opens with its notes while the relay is down", async () => {
    const relay = await Relay.start()
    const browser = await startBrowser()
    const page = await visitor(browser, pageOf(relay.url))
    await write(page, "Ferry", "out 07:40")
    await says(page, "#saved", SAFE)
    await page.evaluate(() => navigator.serviceWorker.ready.then(() => {}))
    await relay.kill()
    for (const address of [pageOf(relay.url), `${pageOf(relay.url)}#`, page.url()]) {
      await page.goto("about:blank")
      await page.goto(address)
      await says(page, "#status", "Relay unreachable")
      await says(page, "#list", "Ferry")
    }
    await holds(page, "out 07:40")
    await page.locator("#body").press("Control+End")
    await page.keyboard.type(", back 16:05")
    await write(page, "Made without a relay", "and kept")
    await says(page, "#status", "2 notes not on it yet")
    await drawn(page)
    await says(page, "#saved", "In this browser, not on the relay yet")
    await page.reload()
    await holds(page, "and kept")
    await relay.restart()
    await says(page, "#saved", SAFE)
    await says(page, "#status", "all on the relay")
    const other = await visitor(browser, pageOf(relay.url))
    await says(other, "#list", "Made without a relay")
    await other.locator("#list a", { hasText: "Ferry" }).click()
    await holds(other, "out 07:40, back 16:05")
  })

  test("writes each line in its own direction", async () => {
    const relay = await Relay.start()
    const page = await visitor(await startBrowser(), pageOf(relay.url))
    await write(page, "שלום", "hello\nمرحبا")
    const direction = element => getComputedStyle(element).direction
    const lines = page.locator("#body > .cm-line")
    expect(await lines.nth(0).evaluate(direction)).toBe("ltr")
    expect(await lines.nth(1).evaluate(direction)).toBe("rtl")
    expect(await page.locator("#title > .cm-line").evaluate(direction)).toBe("rtl")
    expect(await page.locator("#list .row-title").evaluate(direction)).toBe("rtl")
  })
})

/** The screen position of the end of a word in a page's text. */
const edgeOf = (page, word) =>
  page.evaluate(word => {
    const lines = document.createTreeWalker(document.getElementById("body"), NodeFilter.SHOW_TEXT)
    while (lines.nextNode()) {
      const at = lines.currentNode.data.search(new RegExp(`\\b${word}\\b`))
      if (at === -1) continue
      const range = document.createRange()
      range.setStart(lines.currentNode, at)
      range.setEnd(lines.currentNode, at + word.length)
      const { right, top } = range.getBoundingClientRect()
      return { x: right, y: top }
    }
    throw new Error(`no ${word}`)
  }, word)

/** The number of titles that the browser has stored: it stores them together, half a second after they arrive. */
const storedTitles = page =>
  page.evaluate(async () => {
    const names = (await indexedDB.databases()).map(({ name }) => name)
    const result = request => new Promise(resolve => (request.onsuccess = () => resolve(request.result)))
    const database = await result(indexedDB.open(names.find(name => name.endsWith("/page"))))
    const rows = await result(database.transaction("titles").objectStore("titles").getAll())
    database.close()
    return rows.filter(row => row.summary).length
  })
