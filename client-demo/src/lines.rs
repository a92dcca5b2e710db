//! The lines of a foreign text with any line ends: `\n`, `\r\n`, or a lone `\r` as on old Macs and in some
//! exports. A leading byte order mark does not belong to the first line.

/// The lines, without their ends and without a byte order mark.
pub(crate) fn lines(text: &str) -> impl Iterator<Item = &str> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let Some(end) = text.find(['\n', '\r']) else {
            rest = None;
            return (!text.is_empty()).then_some(text);
        };
        let behind = if text[end..].starts_with("\r\n") { end + 2 } else { end + 1 };
        rest = Some(&text[behind..]);
        Some(&text[..end])
    })
}

/// The line end of a text: that of its first line, or `\n` if it has only one line.
pub(crate) fn end_of(text: &str) -> &'static str {
    match text.find(['\n', '\r']).map(|at| &text[at..]) {
        Some(rest) if rest.starts_with("\r\n") => "\r\n",
        Some(rest) if rest.starts_with('\r') => "\r",
        _ => "\n",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_end_ends_a_line() {
        let of = |text| lines(text).collect::<Vec<_>>();
        assert_eq!(of("\u{feff}a\r\nb\rc\n\nd"), ["a", "b", "c", "", "d"]);
        assert_eq!(of("a\r\n"), ["a"]);
        assert_eq!(of(""), [""; 0]);
        assert_eq!(of("\r\r"), ["", ""]);
    }

    #[test]
    fn a_text_has_its_own_line_ends() {
        let ends = ["a", "a\nb\r\n", "a\r\nb\n", "a\rb"].map(end_of);
        assert_eq!(ends, ["\n", "\n", "\r\n", "\r"]);
    }
}
