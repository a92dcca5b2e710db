// A real OpenID Connect issuer: the relay finds its keys, and accepts its tokens only.
import { spawn } from "node:child_process"
import { once } from "node:events"
import { createInterface } from "node:readline"
import { fileURLToPath } from "node:url"
import { expect, onTestFinished, test } from "vitest"
import { hello } from "../support/native.mjs"
import { isReference, startRelay } from "../support/server.mjs"
import { scratch } from "../support/world.mjs"

const ISSUER = fileURLToPath(new URL("../oidc-provider.mjs", import.meta.url))
const UNAUTHORIZED = 6

async function startIssuer() {
  const child = spawn(process.execPath, [ISSUER], { stdio: ["ignore", "pipe", "ignore"] })
  const gone = once(child, "exit")
  const kill = async () => {
    child.kill("SIGKILL")
    await gone
  }
  onTestFinished(kill)
  const [url] = await once(createInterface({ input: child.stdout }), "line")
  return { url, kill }
}

async function token(issuer) {
  const answer = await fetch(`${issuer}/token`, {
    method: "POST",
    headers: { authorization: `Basic ${btoa("alice:the-secret-of-alice")}` },
    body: new URLSearchParams({ grant_type: "client_credentials", scope: "notes" }),
  })
  const { access_token: token } = await answer.json()
  expect(token).toMatch(/^[\w-]+\.[\w-]+\.[\w-]+$/)
  return token
}

test.skipIf(isReference)("tokens of an OpenID Connect issuer are accepted", async () => {
  const issuer = await startIssuer()
  const stranger = await startIssuer()
  const options = ["--oidc-issuer", issuer.url, "--jwt-audience", "https://relay.example"]
  const relay = await startRelay(scratch(), 0, options)
  onTestFinished(() => relay.kill())
  const good = await token(issuer.url)
  expect(await hello(relay.url, good)).toBe("welcome")
  expect(await hello(relay.url)).toBe(UNAUTHORIZED)
  expect(await hello(relay.url, await token(stranger.url))).toBe(UNAUTHORIZED)
  expect(await hello(relay.url, good.slice(0, -8))).toBe(UNAUTHORIZED)
  // The known keys serve while the issuer is dead.
  await issuer.kill()
  expect(await hello(relay.url, good)).toBe("welcome")
})
