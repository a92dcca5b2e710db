//! When two names are the same for a person who reads them: titles, and the names of files. macOS writes
//! `é` as two code points where Linux and most keyboards write one; both are canonically equivalent in
//! Unicode, and are the same name here. Case is ignored where a person types a name.

use icu_normalizer::{ComposingNormalizerBorrowed, DecomposingNormalizerBorrowed};

/// The composed form (NFC): the same for all canonically equivalent spellings.
pub(crate) fn composed(text: &str) -> String {
    ComposingNormalizerBorrowed::new_nfc().normalize(text).into_owned()
}

/// What names that a person would call the same have in common: Unicode's canonical caseless match.
pub(crate) fn key(text: &str) -> String {
    let nfd = DecomposingNormalizerBorrowed::new_nfd();
    // To upper case and back is what folds `ß` with `SS` and `ς` with `σ`, which lower case alone does not.
    let folded = nfd.normalize(text.trim()).to_uppercase().to_lowercase();
    nfd.normalize(&folded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_read_the_same_are_the_same() {
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
    fn composing_keeps_what_is_no_spelling() {
        assert_eq!(composed("Cafe\u{301} ﬁ.md"), "Caf\u{e9} ﬁ.md");
    }
}
