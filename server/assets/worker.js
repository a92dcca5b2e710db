// The service worker: the page opens without the relay, as it was when it was last loaded. It keeps the
// page's files only; notes are the page's own business.

/** Made of the files' content: another version is another worker, with a cache of its own. */
const VERSION = "67006ff809638de9"
const CACHE = `landfall-page/${VERSION}`
const FILES = ["playground.js", "style.css", "icon.svg", "automerge.wasm"].map(name => `/playground/${VERSION}/${name}`)
/** The page is the same for all spaces. */
const PAGE = "/"
/** How long a relay may be silent before the page is taken from the cache. */
const PATIENCE_MS = 3_000

const isPage = ({ pathname }) => pathname === "/" || pathname.startsWith("/spaces/")
/** The relay answers this address with a page only to those who ask for one. */
const asked = () => new Request(PAGE, { headers: { accept: "text/html" }, cache: "no-cache" })

async function keep() {
  const cache = await caches.open(CACHE)
  await cache.addAll(FILES)
  await cache.put(PAGE, await fetch(asked()))
}

/** The page of the relay; if that is gone or silent, the one that was kept. */
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
  // What a page asks for as it is closed must not wait for this worker. Not all browsers know this.
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
