//! Keeps this client's tokens out of the relay's texts, which reach the status and the log: a relay that
//! quotes a token must not put it there.

use crate::frame::{Frame, Token};

/// Put in a token's place.
const CONCEALED: &str = "[token]";

/// The shortest token that is looked for: a shorter one would match ordinary words.
const LEAST_TOKEN: usize = 8;

/// The characters by which the beginning of a token is found: a relay's text may have been cut inside it.
const BEGINNING: usize = 16;

/// The tokens of a connection: that of the hello, and the latest one that replaced it.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    hello: Option<Token>,
    renewed: Option<Token>,
}

impl Tokens {
    /// Of a new connection.
    pub(super) fn of_hello(token: Option<&[u8]>) -> Self {
        let hello = token.map(|token| Token { token: token.to_vec().into() });
        Self { hello, renewed: None }
    }

    pub(super) fn renew(&mut self, token: &[u8]) {
        self.renewed = Some(Token { token: token.to_vec().into() });
    }

    /// Removes the tokens from the texts of a frame.
    pub(super) fn conceal(&self, frame: &mut Frame) {
        let (first, second) = match frame {
            Frame::Error(error) => (Some(&mut error.what), Some(&mut error.hint)),
            Frame::Unsubscribed(ended) => (Some(&mut ended.what), Some(&mut ended.hint)),
            Frame::Nack(nack) => (Some(&mut nack.what), None),
            Frame::Close(close) => (Some(&mut close.reason), None),
            Frame::Welcome(welcome) => (Some(&mut welcome.agent), None),
            _ => (None, None),
        };
        let texts = first.into_iter().chain(second);
        texts.for_each(|text| self.conceal_in(text));
    }

    fn conceal_in(&self, text: &mut String) {
        for token in self.hello.iter().chain(&self.renewed) {
            let Ok(token) = std::str::from_utf8(&token.token) else { continue };
            if token.len() >= LEAST_TOKEN {
                *text = without(text, token);
            }
        }
    }
}

/// A text without a token, or as much of the token as is there from its beginning on.
fn without(text: &str, token: &str) -> String {
    let beginning: String = token.chars().take(BEGINNING).collect();
    let (mut kept, mut rest) = (String::new(), text);
    while let Some(at) = rest.find(&beginning) {
        let quoted = rest[at..].chars().zip(token.chars()).take_while(|(one, other)| one == other);
        let bytes: usize = quoted.map(|(character, _)| character.len_utf8()).sum();
        kept.push_str(&rest[..at]);
        kept.push_str(CONCEALED);
        rest = &rest[at + bytes..];
    }
    kept + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_removed_also_where_the_text_was_cut_inside_it() {
        let token = "eyJhbGciOiJIUzI1NiJ9.e30.c2lnbmF0dXJl";
        for (text, expected) in [
            (format!("wrong: {token}, again {token}"), "wrong: [token], again [token]".to_owned()),
            (format!("wrong: {}", &token[..20]), "wrong: [token]".to_owned()),
            ("nothing to see".to_owned(), "nothing to see".to_owned()),
        ] {
            assert_eq!(without(&text, token), expected);
        }
    }

    #[test]
    fn short_tokens_do_not_change_ordinary_texts() {
        let tokens = Tokens::of_hello(Some(b"the"));
        let mut text = "the token is wrong".to_owned();
        tokens.conceal_in(&mut text);
        assert_eq!(text, "the token is wrong");
    }
}
