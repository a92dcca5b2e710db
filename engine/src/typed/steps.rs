//! The syntax of paths: parsing them, and writing them out for errors.

use automerge::Prop;

use super::TypedError;

/// Parses a path. The empty one has no steps.
pub(super) fn parse(path: &str) -> Result<Vec<Prop>, TypedError> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        let at = path.len() - rest.len();
        let bad = |what| TypedError::BadPath { path: path.to_owned(), at, what };
        let (step, left) = match rest.strip_prefix('[') {
            Some(inner) => bracketed(inner).ok_or_else(|| {
                bad("an index in brackets, as `[3]`, or a key, as `[\"key\"]`, is not complete")
            })?,
            None => {
                let after_dot = match (steps.is_empty(), rest.strip_prefix('.')) {
                    (true, None) => rest,
                    (false, Some(left)) => left,
                    (true, Some(_)) | (false, None) => {
                        return Err(bad("a key follows another step after one dot"));
                    }
                };
                let end = after_dot.find(['.', '[']).unwrap_or(after_dot.len());
                let (key, left) = after_dot.split_at(end);
                if key.is_empty() {
                    return Err(bad("a key is empty; write it as `[\"\"]`"));
                }
                (Prop::Map(key.to_owned()), left)
            }
        };
        steps.push(step);
        rest = left;
    }
    Ok(steps)
}

/// The contents of brackets, after the opening one, and the rest behind them.
fn bracketed(inner: &str) -> Option<(Prop, &str)> {
    let Some(quoted) = inner.strip_prefix('"') else {
        let (index, left) = inner.split_once(']')?;
        let is_number = !index.is_empty() && index.bytes().all(|byte| byte.is_ascii_digit());
        // autosurgeon's type for an index.
        let index: u32 = index.parse().ok().filter(|_| is_number)?;
        return Some((Prop::Seq(usize::try_from(index).ok()?), left));
    };
    let mut key = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '\\' => key.push(chars.next()?.1),
            '"' => return quoted[at + 1..].strip_prefix(']').map(|left| (Prop::Map(key), left)),
            other => key.push(other),
        }
    }
    None
}

/// Writes steps in the syntax of [`parse`].
pub(super) fn written<'a>(steps: impl Iterator<Item = &'a Prop>) -> String {
    let mut path = String::new();
    for step in steps {
        match step {
            Prop::Seq(index) => path.push_str(&format!("[{index}]")),
            Prop::Map(key) if key.is_empty() || key.contains(['.', '[', ']', '"', '\\']) => {
                let escaped = key.replace('\\', "\\\\").replace('"', "\\\"");
                path.push_str(&format!("[\"{escaped}\"]"));
            }
            Prop::Map(key) if path.is_empty() => path.push_str(key),
            Prop::Map(key) => {
                path.push('.');
                path.push_str(key);
            }
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_printed_path_parses_to_itself() {
        let key = |key: &str| Prop::Map(key.to_owned());
        let cases = [
            (vec![], ""),
            (vec![key("title")], "title"),
            (vec![key("a"), key("b"), Prop::Seq(3)], "a.b[3]"),
            (vec![key("a"), Prop::Seq(0), Prop::Seq(12), key("é x")], "a[0][12].é x"),
            (vec![key("a.b"), key(""), key("q\"\\"), key("z")], r#"["a.b"][""]["q\"\\"].z"#),
        ];
        for (steps, path) in cases {
            assert_eq!(written(steps.iter()), path);
            assert_eq!(parse(path).unwrap(), steps, "{path}");
        }
    }

    #[test]
    fn an_invalid_path_reports_its_position() {
        for (path, byte) in [
            (".a", 0),
            ("a.", 1),
            ("a..b", 1),
            ("a[", 1),
            ("a[x]", 1),
            ("a[-1]", 1),
            ("a[+1]", 1),
            ("a[]", 1),
            ("a[1]b", 4),
            ("a[4294967296]", 1),
            (r#"é["x]"#, 2),
            (r#"a["x"#, 1),
            (r#"a["x"b]"#, 1),
        ] {
            let error = parse(path).unwrap_err();
            let TypedError::BadPath { at, .. } = error else { panic!("{path}: {error}") };
            assert_eq!(at, byte, "{path}");
        }
    }
}
