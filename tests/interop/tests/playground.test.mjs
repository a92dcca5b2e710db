// The playground's page, as the relay serves it, in a real browser: against landfall-demo, against
// another visitor, switched off, and with the relay killed.
import { mkdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { describe, expect, test } from "vitest"
import { caretAt, drawn, holds, lists, NARROW, noBrowser, notebook, pageOf, says, startBrowser, textOf, visitor, WIDE, write } from "../support/playground.mjs"
import { isReference } from "../support/server.mjs"
import { Relay } from "../support/world.mjs"

if (noBrowser && process.env.LANDFALL_CI) throw new Error(noBrowser)
if (noBrowser) console.log(`SKIPPED: the playground in a browser: ${noBrowser}`)

const SAFE = "On the relay’s disk"

// automerge-repo's own server has no page.
describe.skipIf(noBrowser || isReference)("the playground", () => {
  test("shares notes with landfall-demo, both ways", async () => {
    const relay = await Relay.start()
    const demo = notebook(relay.url)
    const page = await visitor(await startBrowser(), pageOf(relay.url))
    await says(page, "#empty", "No notes here yet")
    await write(page, "Shopping", "milk 🥛\noats")
    await says(page, "#saved", SAFE)

    await demo("sync")
    expect(await demo("-q", "notes", "show", "Shopping")).toBe("Shopping\nmilk 🥛\noats\n")
    expect(await demo("notes", "check", "Shopping")).toContain("as docs/notebook.md specifies")

    // The caret is behind "milk 🥛" and stays there while others edit the text around it.
    await caretAt(page, 0, 6)
    await demo("notes", "edit", "Shopping", "--text", "two bottles of milk 🥛\noats\nbread")
    await holds(page, "two bottles of milk 🥛\noats\nbread")
    await page.keyboard.type(", cold")
    await holds(page, "two bottles of milk 🥛, cold\noats\nbread")
    await says(page, "#saved", SAFE)
    await demo("sync")
    expect(await demo("-q", "notes", "show", "Shopping")).toContain("milk 🥛, cold\noats\nbread")

    await demo("notes", "new", "From a terminal", "--text", "hello")
    await page.locator("#list a", { hasText: "From a terminal" }).click()
    await holds(page, "hello")
    await demo("notes", "rm", "From a terminal", "--yes")
    await says(page, "#problem", "deleted")
    expect(await textOf(page), "the last copy can still be read").toBe("hello")
    await page.locator("#list a", { hasText: "From a terminal" }).waitFor({ state: "detached" })
    await page.locator("#save-new").press("Enter")
    await says(page, "#saved", SAFE)
    await holds(page, "hello")
    await demo("sync")
    expect(await demo("-q", "notes", "show", "From a terminal")).toBe("From a terminal\nhello\n")
  })

  test("keeps line ends that an editor does not show", async () => {
    const relay = await Relay.start()
    const demo = notebook(relay.url)
    const id = (await demo("-q", "notes", "new", "Windows", "--text", "one\r\ntwo\r\nthree")).trim()
    const page = await visitor(await startBrowser(), `${pageOf(relay.url)}#${id}`)
    await holds(page, "one\ntwo\nthree")
    await caretAt(page, 1, 3)
    await page.keyboard.type("!")
    // Before the redraw, the page still shows the previous state.
    await drawn(page)
    await says(page, "#saved", SAFE)
    await demo("sync")
    expect(await demo("-q", "notes", "show", "Windows")).toBe("Windows\none\r\ntwo!\r\nthree\n")
  })

  test("works while it is switched off, and merges afterwards", async () => {
    const relay = await Relay.start()
    const demo = notebook(relay.url)
    const page = await visitor(await startBrowser(), pageOf(relay.url))
    await write(page, "Plan", "middle")
    await says(page, "#saved", SAFE)
    await says(page, "#status", "all on the relay")

    await page.locator("#switch").press("Space")
    await page.locator('#switch[aria-checked="false"]').waitFor()
    await page.locator("#body").press("Control+End")
    await page.keyboard.type(" end")
    await says(page, "#status", "Offline · 1 note not on the relay yet")
    await says(page, "#saved", "In this browser, not on the relay yet")
    await demo("sync")
    await demo("notes", "edit", "Plan", "--text", "start middle")
    expect(await textOf(page)).toBe("middle end")
    expect(await demo("-q", "notes", "show", "Plan")).toBe("Plan\nstart middle\n")

    await page.locator("#switch").press("Space")
    await holds(page, "start middle end")
    await says(page, "#status", "all on the relay")
    await demo("sync")
    expect(await demo("-q", "notes", "show", "Plan")).toBe("Plan\nstart middle end\n")
  })

  test("keeps offline edits through a reload, and while the relay is down", async () => {
    const relay = await Relay.start()
    const demo = notebook(relay.url)
    const page = await visitor(await startBrowser(), pageOf(relay.url))
    await page.locator("#switch").press("Space")
    await write(page, "Made offline", "kept")
    await says(page, "#status", "1 note not on the relay yet")
    await drawn(page)
    await says(page, "#saved", "In this browser, not on the relay yet")
    // Without the note's id in the address: only this browser's storage has it.
    await page.goto(pageOf(relay.url))
    await holds(page, "kept")
    // The switch stays off over a reload.
    await says(page, "#status", "Offline · 1 note not on the relay yet")
    await page.locator("#switch").press("Space")
    await says(page, "#saved", SAFE)
    await demo("sync")
    expect(await demo("-q", "notes", "show", "Made offline")).toBe("Made offline\nkept\n")

    await relay.kill()
    await says(page, "#status", "Relay unreachable")
    await page.locator("#body").press("Control+End")
    await page.keyboard.type(" safe")
    await says(page, "#status", "1 note not on it yet")
    await relay.restart()
    await says(page, "#saved", SAFE)
    await demo("sync")
    expect(await demo("-q", "notes", "show", "Made offline")).toBe("Made offline\nkept safe\n")
  })

  test("keeps edits of a note that is deleted elsewhere", async () => {
    const relay = await Relay.start()
    const demo = notebook(relay.url)
    const page = await visitor(await startBrowser(), pageOf(relay.url))
    await write(page, "Doomed", "first")
    await says(page, "#saved", SAFE)
    await demo("sync")
    await page.locator("#switch").press("Space")
    await page.locator("#body").press("Control+End")
    await page.keyboard.type(", edited")
    await drawn(page)
    await says(page, "#saved", "In this browser, not on the relay yet")
    await demo("notes", "rm", "Doomed", "--yes")
    await page.locator("#switch").press("Space")
    await says(page, "#problem-text", "Your edits had not reached the relay")
    await holds(page, "first, edited")
    await says(page, "#list", "your edits are only here")
    await says(page, "#status", "all on the relay")

    // Only this browser has it: a reload must not lose it, with or without the relay.
    await page.goto("about:blank")
    await relay.kill()
    await relay.restart()
    await page.goto(pageOf(relay.url))
    await page.locator("#list a", { hasText: "Doomed" }).click()
    await holds(page, "first, edited")
    const [file] = await Promise.all([page.waitForEvent("download"), page.locator("#download").press("Enter")])
    expect(file.suggestedFilename()).toBe("Doomed.md")
    expect(readFileSync(await file.path(), "utf8")).toBe("# Doomed\n\nfirst, edited")

    await page.locator("#save-new").press("Enter")
    await says(page, "#saved", SAFE)
    await holds(page, "first, edited")
    await lists(page, 1)
    await demo("sync")
    expect(await demo("-q", "notes", "show", "Doomed")).toBe("Doomed\nfirst, edited\n")
    expect(await demo("notes", "check", "Doomed")).toContain("as docs/notebook.md specifies")
    await page.reload()
    await holds(page, "first, edited")
    await lists(page, 1)
  })

  test("keeps them if the page is closed before it receives the deletion", async () => {
    const relay = await Relay.start()
    const demo = notebook(relay.url)
    const page = await visitor(await startBrowser(), pageOf(relay.url))
    await write(page, "Doomed", "first")
    await says(page, "#saved", SAFE)
    await demo("sync")
    await page.locator("#switch").press("Space")
    await page.locator("#body").press("Control+End")
    await page.keyboard.type(", edited")
    await drawn(page)
    await says(page, "#saved", "In this browser, not on the relay yet")
    await page.goto("about:blank")
    await demo("notes", "rm", "Doomed", "--yes")
    await page.goto(pageOf(relay.url))
    await says(page, "#status", "Offline · 1 note not on the relay yet")
    await page.locator("#switch").press("Space")
    await says(page, "#list", "your edits are only here")
    await page.locator("#list a", { hasText: "Doomed" }).click()
    await holds(page, "first, edited")
    // The user discards it.
    page.once("dialog", dialog => void dialog.accept())
    await page.locator("#discard").press("Enter")
    await says(page, "#empty", "No notes here yet")
    await page.reload()
    await says(page, "#empty", "No notes here yet")
  })

  test("keeps the edits of two windows of one browser, also if one is closed", async () => {
    const relay = await Relay.start()
    const demo = notebook(relay.url)
    const first = await visitor(await startBrowser(), pageOf(relay.url))
    await write(first, "Doomed", "middle")
    await says(first, "#saved", SAFE)
    const second = await first.context().newPage()
    await second.goto(first.url())
    await holds(second, "middle")
    for (const page of [first, second]) {
      await page.locator("#switch").press("Space")
      await page.locator('#switch[aria-checked="false"]').waitFor()
    }
    await first.locator("#body").press("Control+End")
    await first.keyboard.type(" first")
    await drawn(first)
    await says(first, "#saved", "In this browser, not on the relay yet")
    await first.close()
    await second.locator("#body").press("Control+Home")
    await second.keyboard.type("second ")
    await demo("sync")
    await demo("notes", "rm", "Doomed", "--yes")
    await second.locator("#switch").press("Space")
    await second.locator("#save-new").waitFor()
    await second.reload()
    await holds(second, "second middle first")
  })

  test("does not disturb an input method until it commits", async () => {
    const relay = await Relay.start()
    const browser = await startBrowser()
    const ann = await visitor(browser, pageOf(relay.url))
    await write(ann, "Characters", "<>")
    await says(ann, "#saved", SAFE)
    const ben = await visitor(browser, ann.url())
    await holds(ben, "<>")
    await caretAt(ann, 0, 1)
    const input = await ann.context().newCDPSession(ann)
    const compose = text => input.send("Input.imeSetComposition", { text, selectionStart: text.length, selectionEnd: text.length })
    await compose("か")
    await ben.locator("#body").press("Control+Home")
    await ben.keyboard.type("Ben: ")
    await says(ben, "#saved", SAFE)
    // The list shows Ben's edit once it has arrived; the editor's text waits.
    await says(ann, ".row-line", "Ben: ")
    expect(await textOf(ann)).toBe("<か>")
    expect(await textOf(ben), "a composition is not synced").toBe("Ben: <>")
    await input.send("Input.insertText", { text: "漢" })
    await holds(ann, "Ben: <漢>")
    await ann.keyboard.type("字")
    await holds(ann, "Ben: <漢字>")
    await holds(ben, "Ben: <漢字>")
  })

  test("shows who is here", async () => {
    const relay = await Relay.start()
    const browser = await startBrowser()
    const ann = await visitor(browser, pageOf(relay.url))
    await write(ann, "Harbour", "low tide")
    await ann.fill("#name", "Ann")
    await ann.keyboard.press("Enter")
    await says(ann, "#nobody", "No one else is here")
    const ben = await visitor(browser, ann.url(), NARROW)
    await says(ben, "#others", "Ann")
    await ben.fill("#name", "Ben")
    await ben.keyboard.press("Enter")
    await says(ann, "#others", "Ben")
    // Concurrent edits at two places.
    await ann.locator("#body").press("Control+End")
    await ann.keyboard.type(" at two")
    await ben.locator("#body").press("Control+Home")
    await ben.keyboard.type("Mind: ")
    await holds(ann, "Mind: low tide at two")
    await holds(ben, "Mind: low tide at two")

    await ben.locator("#switch").click()
    await ann.locator("#others li").waitFor({ state: "detached" })
    await says(ben, "#nobody", "Others are not visible offline")
    await ben.locator("#switch").click()
    await says(ann, "#others", "Ben")
    await says(ben, "#others", "Ann")
    await ben.close()
    await ann.locator("#others li").waitFor({ state: "detached" })
  })

  test("shows another space under its own address", async () => {
    const relay = await Relay.start()
    const browser = await startBrowser()
    const team = await visitor(browser, `${pageOf(relay.url)}spaces/team.notes`)
    expect(await team.textContent("#space")).toBe("team.notes")
    await write(team, "For the team", "here")
    await says(team, "#saved", SAFE)
    expect(await notebook(relay.url, "team.notes")("sync")).toBeDefined()
    const demo = notebook(relay.url, "team.notes")
    await demo("sync")
    expect(await demo("-q", "notes", "show", "1")).toBe("For the team\nhere\n")
    const main = await visitor(browser, pageOf(relay.url))
    await says(main, "#empty", "No notes here yet")
  })

  test("fits a large and a small screen, in light and dark", async () => {
    const relay = await Relay.start()
    const browser = await startBrowser()
    const ann = await visitor(browser, pageOf(relay.url))
    for (const [title, body] of SAMPLE) {
      await write(ann, title, body)
      await says(ann, "#saved", SAFE)
    }
    await ann.fill("#name", "Ann")
    await ann.keyboard.press("Enter")
    // The screenshots show Ann's selection.
    await caretAt(ann, 2, 9)
    await ann.keyboard.press("Shift+End")
    for (const [name, viewport, colorScheme] of SCREENS) {
      const page = await visitor(browser, ann.url(), viewport, { colorScheme })
      await says(page, "#others", "Ann")
      await page.fill("#name", "Ben")
      await page.keyboard.press("Enter")
      await says(ann, "#others", "Ben")
      await says(page, "#status", "all on the relay")
      await page.locator("#body-field .other-selection").first().waitFor({ state: "attached" })
      expect(await page.evaluate(overflow), name).toEqual([])
      await shoot(page, name)
      await page.locator("#home").click()
      // A link is followed a moment after its click, and closes a note that is opened before that.
      await page.waitForFunction(() => !location.hash)
      await page.locator("#note").waitFor({ state: "hidden" })
      expect(await page.evaluate(overflow), `${name}, the list`).toEqual([])
      await shoot(page, `${name}-list`)
      await page.close()
      await ann.locator("#others li").waitFor({ state: "detached" })
    }
  })
})

const SCREENS = [
  ["wide", WIDE, "light"],
  ["narrow", NARROW, "light"],
  ["wide-dark", WIDE, "dark"],
  ["narrow-dark", { width: 360, height: 780 }, "dark"],
]

const SAMPLE = [
  ["Groceries", "milk\noats\nbread, if the baker is open"],
  ["Talk on Friday", "Start with the picture of the two logs.\n\nThen the demo: two terminals and a browser."],
  ["Ferry times", "out 07:40, 09:10\nback 16:05, 18:30"],
  [
    "Harbour walk",
    "Low tide is at 14:10. Bring the binoculars: curlews and dunlins on the flats, and the osprey if we are lucky.\n\n- Ann drives\n- Ben has the map\n- we meet at the boathouse at half past one",
  ],
]

/** Elements that overflow the page to the side. Runs in the page. */
function overflow() {
  const wide = element => element.getBoundingClientRect().right > innerWidth + 1
  const seen = [...document.querySelectorAll("body *")].filter(element => element.checkVisibility())
  const inScroller = element => element.closest("pre")
  return seen.filter(element => wide(element) && !inScroller(element)).map(element => element.id || element.className)
}

/** Saves a screenshot, if LANDFALL_SCREENSHOTS is set. */
async function shoot(page, name) {
  const folder = process.env.LANDFALL_SCREENSHOTS
  if (!folder) return
  mkdirSync(folder, { recursive: true })
  await page.screenshot({ path: join(folder, `${name}.png`) })
}
