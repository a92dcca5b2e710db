// style-mod with constructed style sheets: the page's policy allows no <style> element, which the
// published one makes. CodeMirror's styles come through here (see `alias` in bundle.mjs).

import { StyleModule as Published } from "../node_modules/style-mod/src/style-mod.js"

const sheets = new WeakMap()

/** The style sheet of a module, made once. */
function sheetOf(module) {
  if (!sheets.has(module)) {
    const sheet = new CSSStyleSheet()
    sheet.replaceSync(module.getRules())
    sheets.set(module, sheet)
  }
  return sheets.get(module)
}

export class StyleModule extends Published {
  /** The modules' rules hold from now on; those of later modules before those of earlier ones. */
  static mount(root, modules) {
    const mounted = [modules].flat().map(sheetOf)
    const others = root.adoptedStyleSheets.filter(sheet => !mounted.includes(sheet))
    root.adoptedStyleSheets = [...others, ...mounted]
  }
}
