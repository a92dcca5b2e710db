//! Walks a path to the object that it names.

use automerge::{Automerge, ObjId, ObjType, Prop, ROOT, ReadDoc, Value};

use super::TypedError;
use super::seen::Seen;
use super::steps::written;

/// Walks to the object that has the last step as a property; `None` for the empty path.
pub(super) fn walk(
    doc: &Automerge,
    asked: &str,
    steps: &[Prop],
    seen: &Seen,
) -> Result<Option<(ObjId, Prop)>, TypedError> {
    let Some((last, before)) = steps.split_last() else { return Ok(None) };
    let (mut object, mut kind) = (ROOT, ObjType::Map);
    for (count, step) in before.iter().enumerate() {
        check_step(asked, steps, count, kind, step)?;
        let found = doc.get(&object, step.clone()).map_err(|source| TypedError::Automerge {
            path: written(steps[..=count].iter()),
            source: Box::new(source),
        })?;
        let no_place = |found: &str| TypedError::NoPlace {
            asked: asked.to_owned(),
            path: written(steps[..=count].iter()),
            found: found.to_owned(),
        };
        match found {
            Some((Value::Object(inner), id)) => {
                seen.at(&object, step, Some(&id));
                (object, kind) = (id, inner);
            }
            Some((Value::Scalar(_), _)) => return Err(no_place("a plain value")),
            None => return Err(no_place("not there")),
        }
    }
    check_step(asked, steps, before.len(), kind, last)?;
    Ok(Some((object, last.clone())))
}

/// Checks that keys are of maps, and indexes of lists.
fn check_step(
    asked: &str,
    steps: &[Prop],
    count: usize,
    kind: ObjType,
    step: &Prop,
) -> Result<(), TypedError> {
    let found = match (kind, step) {
        (ObjType::Map | ObjType::Table, Prop::Map(_)) | (ObjType::List, Prop::Seq(_)) => {
            return Ok(());
        }
        (ObjType::Map | ObjType::Table, Prop::Seq(_)) => "a map, which has keys and no indexes",
        (ObjType::List, Prop::Map(_)) => "a list, which has indexes and no keys",
        (ObjType::Text, _) => "a text object, which is read whole",
    };
    let path = written(steps[..count].iter());
    Err(TypedError::NoPlace { asked: asked.to_owned(), path, found: found.to_owned() })
}
