// automerge-repo in a real browser and a Landfall engine edit one document through one relay.
import { expect, test } from "vitest"
import { hasChromium, openBrowser, openPage, servePage } from "../support/browser.mjs"
import { Demo } from "../support/demo.mjs"
import { isReference } from "../support/server.mjs"
import { Relay, until } from "../support/world.mjs"

const body = page => page.evaluate(() => window.app.body())
const connected = page => page.evaluate(() => window.app.connected())

const open = (page, url, id) =>
  page.evaluate(([url, id]) => window.app.open(url, id), [url, id])

// tests/run.sh installs Chromium, or prints that it cannot. automerge-repo's own server does not serve engines.
const browserTest = test.skipIf(!hasChromium || isReference)

browserTest("a page and an engine edit one note, live and after time offline", async () => {
  const relay = await Relay.start()
  const engine = new Demo(relay.url)
  const id = await engine.new("Shared", "from the engine")
  const watcher = new Demo(relay.url)
  const lines = watcher.watch()
  await until("the watcher is live", () => lines.some(line => line.includes("“Shared” received")))

  const { context, page } = await openBrowser(await servePage())
  await open(page, relay.url, id)
  expect(await body(page)).toBe("from the engine")
  expect(await page.evaluate(() => window.app.title())).toBe("Shared")

  // Live, in both directions.
  const seen = lines.length
  await page.evaluate(() => window.app.append("\nfrom the browser"))
  await until("the watcher saw it", () =>
    lines.slice(seen).some(line => line.includes("“Shared” received"))
  )
  await until("the engine has it", async () =>
    (await engine.show(id)) === "Shared\nfrom the engine\nfrom the browser"
  )
  await engine.append(id, "and the engine again")
  await until("the page has it", async () => (await body(page)).includes("engine again"))

  // Offline, with edits on both sides.
  await page.evaluate(() => window.app.goOffline())
  await context.setOffline(true)
  await page.evaluate(() => window.app.insert(0, "offline in the browser\n"))
  await engine.append(id, "meanwhile in the engine")
  expect(await body(page)).not.toContain("meanwhile")
  expect(await engine.show(id)).not.toContain("offline in the browser")
  expect(await connected(page)).toBe(false)

  await context.setOffline(false)
  await page.evaluate(() => window.app.goOnline())
  await until("both have all", async () => {
    const [here, there] = [await body(page), await engine.show(id)]
    const all = here.includes("meanwhile in the engine") && there.includes("offline in the browser")
    return all && `Shared\n${here}` === there
  })
})

browserTest("edits made while the relay was down survive the page", async () => {
  const relay = await Relay.start()
  const engine = new Demo(relay.url)
  const id = await engine.new("Kept", "one")
  const url = await servePage()
  const { context, page } = await openBrowser(url)
  await open(page, relay.url, id)

  await relay.kill()
  await until("the page lost it", async () => !(await connected(page)))
  await page.evaluate(() => window.app.append("\ntwo"))
  await page.evaluate(() => window.app.flush())
  await page.close()

  await relay.restart()
  const again = await openPage(context, url)
  await open(again, relay.url, id)
  expect(await body(again)).toBe("one\ntwo")
  await until("the engine has it", async () => (await engine.show(id)) === "Kept\none\ntwo")
})
