//! The subset of Markdown that the rules need: lines of prose, their links, and headings.

/// The lines of prose with their numbers, without fenced code.
pub(crate) fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fence: Option<&str> = None;
    text.lines().zip(1..).filter_map(move |(line, number)| {
        let start = line.trim_start();
        let mark = ["```", "~~~"].into_iter().find(|mark| start.starts_with(mark));
        match (fence, mark) {
            (None, None) => return Some((number, line)),
            (None, Some(mark)) => fence = Some(mark),
            (Some(open), Some(mark)) if open == mark => fence = None,
            (Some(_), _) => {}
        }
        None
    })
}

/// The text of every heading.
pub(crate) fn headings(text: &str) -> Vec<&str> {
    let lines = prose(text).map(|(_, line)| line).filter(|line| line.starts_with('#'));
    lines.map(|line| line.trim_start_matches('#').trim()).collect()
}

/// The targets of all links and images: `[text](target "title")` and `[name]: target`.
pub(crate) fn links(text: &str) -> Vec<(usize, String)> {
    let mut links = Vec::new();
    for (number, line) in prose(text) {
        let line = without_code(line);
        for (at, _) in line.match_indices("](") {
            links.push((number, target(&line[at + 2..], true)));
        }
        if let Some((name, rest)) = line.trim_start().split_once("]: ")
            && name.starts_with('[')
            && !name.starts_with("[^")
        {
            links.push((number, target(rest, false)));
        }
    }
    links
}

/// A line without its inline code.
pub(crate) fn without_code(line: &str) -> String {
    let mut parts = line.split('`');
    let mut kept = parts.next().unwrap_or_default().to_owned();
    while let (Some(code), after) = (parts.next(), parts.next()) {
        // An unpaired backtick is an ordinary character.
        kept.push_str(after.unwrap_or(code));
    }
    kept
}

fn target(rest: &str, in_parentheses: bool) -> String {
    if let Some(rest) = rest.trim_start().strip_prefix('<') {
        return rest.split('>').next().unwrap_or_default().to_owned();
    }
    let mut depth = 0;
    let end = rest.find(|c: char| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        c.is_whitespace() || (in_parentheses && depth < 0)
    });
    rest[..end.unwrap_or(rest.len())].to_owned()
}

#[test]
fn links_and_headings_are_found() {
    let text = "\
# One `two`
See [a](a.md), ![b](img/b.png \"title\") and `[no](no.md)`.
```
# Not a heading
[no](no.md)
```
[c]: c.md#part
[^note]: words
## Three
[d](<d e.md>) [f](f_(g).md)
";
    let links = links(text);
    let targets: Vec<&str> = links.iter().map(|(_, target)| target.as_str()).collect();
    assert_eq!(targets, ["a.md", "img/b.png", "c.md#part", "d e.md", "f_(g).md"]);
    assert_eq!(links[3].0, 10);
    assert_eq!(headings(text), ["One `two`", "Three"]);
}
