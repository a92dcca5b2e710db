//! Equality of names as readers see it: titles, and names of files. macOS encodes `é` as two code points
//! where Linux and most keyboards use one; both are canonically equivalent in Unicode, and equal here. Names
//! that a user types are compared without case.

use icu_normalizer::{ComposingNormalizerBorrowed, DecomposingNormalizerBorrowed};

/// The composed form (NFC): the same for all canonically equivalent spellings.
pub(crate) fn composed(text: &str) -> String {
    ComposingNormalizerBorrowed::new_nfc().normalize(text).into_owned()
}

/// A key that is the same for all names a reader considers equal: Unicode's canonical caseless match.
pub(crate) fn key(text: &str) -> String {
    let nfd = DecomposingNormalizerBorrowed::new_nfd();
    // Converting to upper case and back also matches `ß` with `SS` and `ς` with `σ`, which lower case alone
    // does not.
    let caseless = nfd.normalize(text.trim()).to_uppercase().to_lowercase();
    nfd.normalize(&caseless).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonically_equivalent_names_are_equal() {
        for (one, other) in [
            ("Caf\u{e9}", "cafe\u{301}"),
            ("ÄPFEL", "a\u{308}pfel"),
            ("한글", "\u{1112}\u{1161}\u{11ab}\u{1100}\u{1173}\u{11af}"),
            ("ＡＢ", "ａｂ"),
            ("Straße", "STRASSE"),
            ("ΌΣΟΣ", "όσος"),
            (" Trip ", "trip"),
        ] {
            assert_eq!(key(one), key(other), "{one} {other}");
        }
        assert_ne!(key("resume"), key("résumé"));
        assert_ne!(key("ＡＢ"), key("ab"), "compatible is not equivalent");
    }

    #[test]
    fn composing_keeps_compatibility_characters() {
        assert_eq!(composed("Cafe\u{301} ﬁ.md"), "Caf\u{e9} ﬁ.md");
    }
}
