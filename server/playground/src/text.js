// Maps positions between a text as an editor shows it and as the document stores it. Positions are UTF-16
// units, as in the DOM and in automerge's JavaScript. Must not use the DOM or documents.

/** A text as an editor shows it: every line end is one `\n`. */
export const shown = text => text.replace(/\r\n?/g, "\n")

/** Maps a position of the shown text to the stored text. */
export function toText(text, position) {
  let extra = 0
  let end = text.indexOf("\r\n")
  // Each two-character line end before it adds one.
  while (end !== -1 && end < position + extra) {
    extra++
    end = text.indexOf("\r\n", end + 2)
  }
  return position + extra
}

/** Maps a position of the stored text to the shown text. */
export const toShown = (text, position) =>
  text.includes("\r\n") ? shown(text.slice(0, position)).length : position

/**
 * The single replacement that turns `before` into `after`. The caret resolves ambiguity: if "aa" becomes
 * "aaa", it determines which `a` is new.
 */
export function difference(before, after, caret) {
  const most = Math.min(before.length, after.length)
  const fromEnd = (text, count) => text.charCodeAt(text.length - 1 - count)
  let head = 0
  let tail = 0
  const extend = limit => {
    while (tail < limit && fromEnd(before, tail) === fromEnd(after, tail)) tail++
  }
  extend(Math.min(most, after.length - caret))
  while (head < most - tail && before.charCodeAt(head) === after.charCodeAt(head)) head++
  extend(most - head)
  // Do not split a surrogate pair.
  if (head > 0 && isHigh(before.charCodeAt(head - 1))) head--
  if (tail > 0 && isLow(fromEnd(before, tail - 1))) tail--
  return { at: head, remove: before.length - head - tail, insert: after.slice(head, after.length - tail) }
}

const isHigh = unit => unit >= 0xd800 && unit < 0xdc00
const isLow = unit => unit >= 0xdc00 && unit < 0xe000
