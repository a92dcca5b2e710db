//! The query parameters of the playground's API.

use landfall_protocol::{Offset, SpaceName};

use super::DEFAULT_SPACE;
use crate::limits;

/// Documents per answer, by default.
const DOCUMENTS_DEFAULT: usize = 100;

/// The parameters of a list of documents.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct DocumentsQuery {
    pub(super) space: SpaceName,
    pub(super) since: Offset,
    pub(super) before: Option<Offset>,
    pub(super) limit: usize,
}

/// Parses `space=NAME&since=OFFSET&before=OFFSET&limit=N`, each optional. The error text is for the client.
pub(super) fn documents_query(query: Option<&str>) -> Result<DocumentsQuery, String> {
    let space = DEFAULT_SPACE.parse().map_err(|error| format!("{error}"))?;
    let mut parameters =
        DocumentsQuery { space, since: Offset(0), before: None, limit: DOCUMENTS_DEFAULT };
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        match name {
            "space" => parameters.space = value.parse().map_err(|error| format!("{error}"))?,
            "since" => parameters.since = offset(name, value)?,
            "before" => parameters.before = Some(offset(name, value)?),
            "limit" => {
                let limit = value.parse().ok();
                let allowed = |limit: &usize| (1..=limits::LISTED_DOCUMENTS).contains(limit);
                parameters.limit = limit.filter(allowed).ok_or_else(|| {
                    format!("`limit` is a number from 1 to {}", limits::LISTED_DOCUMENTS)
                })?;
            }
            _ => return Err("the parameters are `space`, `since`, `before` and `limit`".to_owned()),
        }
    }
    Ok(parameters)
}

fn offset(name: &str, value: &str) -> Result<Offset, String> {
    let offset = value.parse().ok().filter(|offset| i64::try_from(*offset).is_ok());
    offset.map(Offset).ok_or_else(|| format!("`{name}` is an offset, a number from 0 on"))
}

/// Parses the space alone.
pub(super) fn space_query(query: Option<&str>) -> Result<SpaceName, String> {
    match query.unwrap_or_default() {
        query if query.split('&').all(|pair| pair.is_empty() || pair.starts_with("space=")) => {
            documents_query(Some(query)).map(|documents_query| documents_query.space)
        }
        _ => Err("the parameter is `space`".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_parameters_are_parsed() {
        let space = |name: &str| name.parse::<SpaceName>().unwrap();
        let all =
            DocumentsQuery { space: space("default"), since: Offset(0), before: None, limit: 100 };
        assert_eq!(documents_query(None), Ok(all));
        let (since, before) = (Offset(3), Some(Offset(9)));
        let some = DocumentsQuery { space: space("a.b"), since, before, limit: 7 };
        assert_eq!(documents_query(Some("limit=7&since=3&before=9&space=a.b")), Ok(some));
        assert_eq!(space_query(Some("space=a.b")), Ok(space("a.b")));
        assert_eq!(space_query(None), Ok(space("default")));
    }

    #[test]
    fn an_invalid_query_parameter_is_named() {
        for (query, expected) in [
            ("limit=0", "1 to 1000"),
            ("limit=1001", "1 to 1000"),
            ("limit=many", "1 to 1000"),
            ("space=", "1 to 64 bytes"),
            ("space=../etc", "not allowed"),
            ("before=automerge:nothing", "`before` is an offset"),
            ("since=-1", "`since` is an offset"),
            ("since=9223372036854775808", "`since` is an offset"),
            ("offset=3", "`space`, `since`, `before` and `limit`"),
        ] {
            let error = documents_query(Some(query)).unwrap_err();
            assert!(error.contains(expected), "{query}: {error}");
        }
        assert!(space_query(Some("limit=3")).unwrap_err().contains("`space`"));
    }
}
