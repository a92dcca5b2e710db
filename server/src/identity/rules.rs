//! Rules in a token: the claim `landfall`, an array of
//! `{ "spaces": "team-*", "document": "…", "rights": ["read"] }`. Every error names the place in the
//! claim and what was expected there.

use landfall_protocol::DocumentId;
use landfall_protocol::access::{Rights, Rule, SpacePattern};
use landfall_protocol::limits as shared;
use serde_json::{Map, Value};

use super::token_error::TokenError;
use crate::limits;

/// The claim's name.
pub(super) const CLAIM: &str = "landfall";

/// The rules of the claim; none if it is absent.
pub(super) fn of_claim(claim: Option<&Value>) -> Result<Vec<Rule>, TokenError> {
    let Some(claim) = claim else { return Ok(Vec::new()) };
    let rules = array(claim, CLAIM, "an array of rules")?;
    if rules.len() > shared::PRINCIPAL_RULES {
        let (claim, actual) = (CLAIM.to_owned(), rules.len());
        return Err(TokenError::TooMany { claim, actual, max: shared::PRINCIPAL_RULES });
    }
    rules.iter().enumerate().map(|(at, rule)| of_value(rule, &format!("{CLAIM}[{at}]"))).collect()
}

/// The groups of a claim; none if it is absent.
pub(super) fn groups(claim: Option<&Value>, name: &str) -> Result<Vec<String>, TokenError> {
    const EXPECTED: &str = "an array of texts";
    let Some(claim) = claim else { return Ok(Vec::new()) };
    let groups = array(claim, name, EXPECTED)?;
    if groups.len() > shared::PRINCIPAL_GROUPS {
        let (claim, actual) = (name.to_owned(), groups.len());
        return Err(TokenError::TooMany { claim, actual, max: shared::PRINCIPAL_GROUPS });
    }
    let group = |value: &Value| value.as_str().map(ToOwned::to_owned);
    let groups: Option<Vec<String>> = groups.iter().map(group).collect();
    groups.ok_or_else(|| wrong_type(name, EXPECTED))
}

fn of_value(rule: &Value, place: &str) -> Result<Rule, TokenError> {
    const MEMBERS: [&str; 3] = ["spaces", "document", "rights"];
    let rule = rule
        .as_object()
        .ok_or_else(|| wrong_type(place, "an object with `spaces` and `rights`"))?;
    // A member that this release does not know may restrict the rule.
    if rule.keys().any(|name| !MEMBERS.contains(&name.as_str())) {
        return Err(wrong_type(place, "an object of only `spaces`, `document` and `rights`"));
    }
    let spaces = member(rule, place, "spaces")?;
    let spaces_place = format!("{place}.spaces");
    let spaces: SpacePattern = parsed(text(spaces, &spaces_place)?, &spaces_place)?;
    let document_place = format!("{place}.document");
    let document: Option<DocumentId> = match rule.get("document") {
        None | Some(Value::Null) => None,
        Some(id) => Some(parsed(text(id, &document_place)?, &document_place)?),
    };
    let rights_place = format!("{place}.rights");
    let names = array(member(rule, place, "rights")?, &rights_place, "an array of rights")?;
    let right = |(at, name): (usize, &Value)| -> Result<Rights, TokenError> {
        let place = format!("{rights_place}[{at}]");
        parsed(text(name, &place)?, &place)
    };
    let rights = names.iter().enumerate().map(right).collect::<Result<Rights, _>>()?;
    Ok(Rule { spaces, document, rights })
}

fn member<'a>(
    rule: &'a Map<String, Value>,
    place: &str,
    name: &str,
) -> Result<&'a Value, TokenError> {
    rule.get(name).ok_or_else(|| TokenError::MissingClaim(format!("{place}.{name}")))
}

fn array<'a>(
    value: &'a Value,
    place: &str,
    expected: &'static str,
) -> Result<&'a Vec<Value>, TokenError> {
    value.as_array().ok_or_else(|| wrong_type(place, expected))
}

fn text<'a>(value: &'a Value, place: &str) -> Result<&'a str, TokenError> {
    value.as_str().ok_or_else(|| wrong_type(place, "a text"))
}

fn parsed<T>(text: &str, place: &str) -> Result<T, TokenError>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    text.parse().map_err(|error: T::Err| {
        let what: String = error.to_string().chars().take(limits::SHOWN_HEADER_BYTES).collect();
        TokenError::Rule { claim: place.to_owned(), what }
    })
}

fn wrong_type(place: &str, expected: &'static str) -> TokenError {
    TokenError::ClaimType { claim: place.to_owned(), expected }
}
