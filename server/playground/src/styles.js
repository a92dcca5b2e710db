// Replaces style-mod by constructed style sheets: the page's content security policy forbids the <style>
// elements that the published package creates. CodeMirror's styles use it (see `alias` in bundle.mjs).

import { StyleModule as Published } from "../node_modules/style-mod/src/style-mod.js"

const sheets = new WeakMap()

/** The style sheet of a module, created once. */
function sheetOf(module) {
  if (!sheets.has(module)) {
    const sheet = new CSSStyleSheet()
    sheet.replaceSync(module.getRules())
    sheets.set(module, sheet)
  }
  return sheets.get(module)
}

export class StyleModule extends Published {
  /** Applies the modules' rules; later modules precede earlier ones. */
  static mount(root, modules) {
    const mounted = [modules].flat().map(sheetOf)
    const others = root.adoptedStyleSheets.filter(sheet => !mounted.includes(sheet))
    root.adoptedStyleSheets = [...others, ...mounted]
  }
}
