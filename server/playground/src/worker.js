// The service worker: serves the last loaded version of the page while the relay is unreachable. It caches
// the page's files only; the page stores the notes itself.

/** A hash of the files: each version is a separate worker with a separate cache. */
const VERSION = "{{version}}"
const CACHE = `landfall-page/${VERSION}`
const FILES = ["playground.js", "style.css", "icon.svg", "automerge.wasm"].map(name => `/playground/${VERSION}/${name}`)
/** The page is the same for all spaces. */
const PAGE = "/"
/** How long to wait for the relay before the page is served from the cache. */
const PATIENCE_MS = 3_000

const isPage = ({ pathname }) => pathname === "/" || pathname.startsWith("/spaces/")
/** The relay answers this address with the page only if the request accepts HTML. */
const asked = () => new Request(PAGE, { headers: { accept: "text/html" }, cache: "no-cache" })

async function keep() {
  const cache = await caches.open(CACHE)
  await cache.addAll(FILES)
  await cache.put(PAGE, await fetch(asked()))
}

/** The relay's page, or the cached one if the relay fails or does not answer in time. */
async function page(request) {
  const answer = fetch(request)
  const kept = await (await caches.open(CACHE)).match(PAGE, { ignoreVary: true })
  if (!kept) return answer
  const patience = new Promise(resolve => setTimeout(resolve, PATIENCE_MS))
  return Promise.race([answer.catch(() => kept), patience.then(() => kept)])
}

async function file(request) {
  const kept = await caches.match(request, { ignoreVary: true })
  return kept ?? fetch(request)
}

addEventListener("install", event => {
  // Requests of a closing page must bypass this worker. Not all browsers support this.
  const condition = { urlPattern: { pathname: "/playground/documents/*" } }
  void event.addRoutes?.({ condition, source: "network" }).catch(() => {})
  event.waitUntil(keep().then(() => skipWaiting()))
})

addEventListener("activate", event => {
  const forget = names => Promise.all(names.filter(name => name !== CACHE).map(name => caches.delete(name)))
  event.waitUntil(caches.keys().then(forget).then(() => clients.claim()))
})

addEventListener("fetch", event => {
  const { request } = event
  const address = new URL(request.url)
  if (request.method !== "GET" || address.origin !== location.origin) return
  if (request.mode === "navigate" && isPage(address)) event.respondWith(page(request))
  else if (FILES.includes(address.pathname)) event.respondWith(file(request))
})
