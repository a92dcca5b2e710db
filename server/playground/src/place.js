// Relay and space, read from the page's address.

const DEFAULT_SPACE = "default"

/** `/` is the space `default`, `/spaces/NAME` is the space NAME. */
export function place({ protocol, host, pathname }) {
  const name = /^\/spaces\/([A-Za-z0-9][A-Za-z0-9._-]{0,63})\/?$/.exec(pathname)?.[1]
  const relay = `${protocol === "https:" ? "wss" : "ws"}://${host}`
  return {
    space: name ?? DEFAULT_SPACE,
    relay,
    socket: name ? `${relay}/spaces/${name}` : `${relay}/`,
    documents: "/playground/documents",
    live: "/playground/live",
  }
}

/** The address that opens a note in its space. */
export const addressOf = ({ origin, pathname }, id) => `${origin}${pathname}#${id}`

/** The note that an address names, if any: an id, with or without `automerge:`. */
export const named = ({ hash }) => hash.slice(1).replace(/^automerge:/, "")

/** The commands that open the same notebook with landfall-demo. */
export function terminal({ relay, space }) {
  const options = space === DEFAULT_SPACE ? "" : `export LANDFALL_SPACE=${space}\n`
  return [
    `export LANDFALL_RELAY=${relay}\n${options}landfall-demo sync`,
    "landfall-demo notes list",
    "landfall-demo notes append 1 \"and bread\"",
    "landfall-demo watch",
  ].join("\n")
}
