//! Tracks where autosurgeon has been in a document, and as which kinds it is shown values.
//!
//! A type reveals the kinds that it accepts only by rejecting others. So the document is first shown as
//! it is. Where the type rejects a value that could be shown as another kind with the same meaning,
//! that is recorded, and the document is hydrated again. Records apply to a *shape*: a path without the
//! indexes of lists, so that the length of a list does not matter.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;

use automerge::{AutomergeError, ObjId, ObjType, Prop, ScalarValue, Value};
use autosurgeon::HydrateError;
use autosurgeon::hydrate::Unexpected;

/// The most attempts to hydrate a document: more than a type has fields of another kind.
const ATTEMPTS: u32 = 256;

/// From so many shapes on, a record applies everywhere: the map's keys are data.
const TYPICAL: u32 = 16;

/// From so many keys on, further keys of a map make no shapes: they are data.
const KEYS: u32 = 32;

/// A kind of value. The first ones occur in documents, all may be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Missing,
    Null,
    Text,
    Str,
    Int,
    Uint,
    F64,
    Counter,
    Timestamp,
    /// Always shown as it is.
    Other,
}

impl Kind {
    fn of(found: Option<&Value<'_>>) -> Self {
        match found {
            None => Self::Missing,
            Some(Value::Object(ObjType::Text)) => Self::Text,
            Some(Value::Object(_)) => Self::Other,
            Some(Value::Scalar(scalar)) => match scalar.as_ref() {
                ScalarValue::Null => Self::Null,
                ScalarValue::Str(_) => Self::Str,
                ScalarValue::Int(_) => Self::Int,
                ScalarValue::Uint(_) => Self::Uint,
                ScalarValue::F64(_) => Self::F64,
                ScalarValue::Counter(_) => Self::Counter,
                ScalarValue::Timestamp(_) => Self::Timestamp,
                ScalarValue::Boolean(_) | ScalarValue::Bytes(_) | ScalarValue::Unknown { .. } => {
                    Self::Other
                }
            },
        }
    }

    /// The kinds as which a value of this kind is shown, one after the other.
    fn candidates(self) -> &'static [Self] {
        match self {
            Self::Missing => &[Self::Missing, Self::Null],
            Self::Text => &[Self::Text, Self::Str],
            Self::Int => &[Self::Int, Self::Uint, Self::F64],
            Self::Uint => &[Self::Uint, Self::Int, Self::F64],
            Self::F64 => &[Self::F64, Self::Int, Self::Uint],
            Self::Counter => &[Self::Counter, Self::Int, Self::Uint],
            Self::Timestamp => &[Self::Timestamp, Self::Int],
            Self::Null | Self::Str | Self::Other => &[],
        }
    }

    /// Whether an error means that a type rejects a value that was shown as this kind.
    fn is_refused_by(self, error: &HydrateError) -> bool {
        let HydrateError::Unexpected(unexpected) = error else { return false };
        match unexpected {
            Unexpected::Text => self == Self::Text,
            Unexpected::String => self == Self::Str,
            Unexpected::Int => self == Self::Int,
            Unexpected::Uint => self == Self::Uint,
            Unexpected::F64 => self == Self::F64,
            Unexpected::Counter => self == Self::Counter,
            Unexpected::Timestamp => self == Self::Timestamp,
            Unexpected::None => self == Self::Null,
            // Only `Option` gives this error: for other types a missing value is an error.
            Unexpected::Other { expected, found } => {
                let is_of_option = expected == "a ScalarValue::Null" && found == "nothing at all";
                self == Self::Missing && is_of_option
            }
            _ => false,
        }
    }
}

/// A kind, the kind it is shown as, and for a missing value its key: a type that looks for one missing
/// key must not find another one.
type Typical = (Kind, Kind, Option<String>);

fn typical(stored: Kind, shown: Kind, prop: &Prop) -> Typical {
    match (stored, prop) {
        (Kind::Missing, Prop::Map(key)) => (stored, shown, Some(key.clone())),
        _ => (stored, shown, None),
    }
}

/// An index into [`State::nodes`]; 0 is the root, or an unknown object.
type Node = usize;
type Shape = usize;

/// A step of a shape: a key, or any index or key.
type Step = Option<String>;

struct Object {
    parent: Node,
    prop: Prop,
    shape: Shape,
}

/// The place that was looked at last.
struct Last {
    parent: Node,
    prop: Prop,
    stored: Kind,
    /// The kind as which it should be shown, and the one as which it is.
    wanted: Kind,
    shown: Kind,
    /// A plain value, without its long parts.
    value: Option<ScalarValue>,
}

#[derive(Default)]
struct State {
    nodes: Vec<Object>,
    index: HashMap<ObjId, Node>,
    last: Option<Last>,
    shapes: HashMap<(Shape, Step), Shape>,
    /// How many keys below a shape make shapes.
    keys: HashMap<Shape, u32>,
    rules: HashMap<(Shape, Kind), Rule>,
    /// How many shapes are shown so.
    typical: HashMap<Typical, u32>,
    attempts: u32,
}

struct Rule {
    shown: Kind,
    /// How many of [`Kind::candidates`] were tried.
    tried: usize,
}

impl State {
    fn shape_of(&self, node: Node) -> Shape {
        self.nodes.get(node.wrapping_sub(1)).map_or(0, |object| object.shape)
    }

    fn shape(&mut self, parent: Shape, prop: &Prop) -> Shape {
        let step = match prop {
            Prop::Map(key) => Some(key.clone()),
            Prop::Seq(_) => None,
        };
        let next = self.shapes.len() + 1;
        let is_key = step.is_some();
        if let Some(known) = self.shapes.get(&(parent, step.clone())) {
            return *known;
        }
        if is_key {
            let keys = self.keys.entry(parent).or_default();
            if *keys >= KEYS {
                return *self.shapes.entry((parent, None)).or_insert(next);
            }
            *keys += 1;
        }
        *self.shapes.entry((parent, step)).or_insert(next)
    }

    /// The kind as which a value is shown.
    fn rule(&mut self, parent: Node, prop: &Prop, stored: Kind) -> Kind {
        if self.rules.is_empty() || stored.candidates().is_empty() {
            return stored;
        }
        let shape = self.shape(self.shape_of(parent), prop);
        if let Some(rule) = self.rules.get(&(shape, stored)) {
            return rule.shown;
        }
        // A counter that is shown as another kind would be written as that kind.
        if stored == Kind::Counter {
            return stored;
        }
        let is_typical = |shown: &&Kind| {
            let count = self.typical.get(&typical(stored, **shown, prop));
            count.is_some_and(|count| *count >= TYPICAL)
        };
        stored.candidates().iter().find(is_typical).copied().unwrap_or(stored)
    }

    fn note(&mut self, id: &ObjId, parent: Node, prop: &Prop) {
        if self.index.contains_key(id) {
            return;
        }
        let shape = self.shape(self.shape_of(parent), prop);
        self.nodes.push(Object { parent, prop: prop.clone(), shape });
        self.index.insert(id.clone(), self.nodes.len());
    }

    fn node(&self, id: &ObjId) -> Node {
        self.index.get(id).copied().unwrap_or(0)
    }
}

/// The places that autosurgeon has visited, and the kinds that it was shown.
#[derive(Default)]
pub(crate) struct Seen(RefCell<State>);

impl Seen {
    /// Shows the value at a place. `text` reads a text object.
    pub(super) fn show<'v>(
        &self,
        obj: &ObjId,
        prop: Prop,
        found: Option<(Value<'v>, ObjId)>,
        text: impl FnOnce(&ObjId) -> Result<String, AutomergeError>,
    ) -> Result<Option<(Value<'v>, ObjId)>, AutomergeError> {
        let stored = Kind::of(found.as_ref().map(|(value, _)| value));
        let mut state = self.0.borrow_mut();
        let parent = state.node(obj);
        if let Some((Value::Object(_), id)) = &found {
            state.note(id, parent, &prop);
        }
        let value = match &found {
            Some((Value::Scalar(scalar), _)) => Some(outline(scalar)),
            Some((Value::Object(_), _)) | None => None,
        };
        let wanted = state.rule(parent, &prop, stored);
        let shown = match found {
            found if wanted == stored => found,
            None => Some((Value::Scalar(Cow::Owned(ScalarValue::Null)), obj.clone())),
            Some((Value::Object(_), id)) => {
                let value = ScalarValue::Str(text(&id)?.into());
                Some((Value::Scalar(Cow::Owned(value)), id))
            }
            Some((Value::Scalar(scalar), id)) => {
                let value = converted(&scalar, wanted).map_or(scalar, Cow::Owned);
                Some((Value::Scalar(value), id))
            }
        };
        let as_kind = Kind::of(shown.as_ref().map(|(value, _)| value));
        state.last = Some(Last { parent, prop, stored, wanted, shown: as_kind, value });
        Ok(shown)
    }

    /// Records an object that was made, or will be written.
    pub(super) fn at(&self, obj: &ObjId, prop: &Prop, made: Option<&ObjId>) {
        let mut state = self.0.borrow_mut();
        let parent = state.node(obj);
        if let Some(made) = made {
            state.note(made, parent, prop);
        }
        let (prop, kind, value) = (prop.clone(), Kind::Other, None);
        state.last = Some(Last { parent, prop, stored: kind, wanted: kind, shown: kind, value });
    }

    /// After a failure: returns whether the place that was looked at last is shown as another kind from
    /// now on.
    pub(super) fn learn(&self, error: &HydrateError) -> bool {
        let mut guard = self.0.borrow_mut();
        let state = &mut *guard;
        let Some(last) = state.last.take() else { return false };
        let (parent, stored, shown) = (last.parent, last.stored, last.shown);
        // A value that cannot be shown as the wanted kind is the subject of the error.
        let refused = shown == last.wanted && shown.is_refused_by(error);
        let prop = last.prop.clone();
        state.last = Some(last);
        if !refused || state.attempts >= ATTEMPTS {
            return false;
        }
        state.attempts += 1;
        let shape = state.shape(state.shape_of(parent), &prop);
        let rule = state.rules.entry((shape, stored)).or_insert(Rule { shown, tried: 0 });
        let mut left = stored.candidates().iter().skip(rule.tried);
        let Some(next) = left.find(|candidate| **candidate != shown) else { return false };
        // A kind that was tried and rejected is not typical.
        if rule.tried > 0
            && let Some(count) = state.typical.get_mut(&typical(stored, rule.shown, &prop))
        {
            *count = count.saturating_sub(1);
        }
        rule.tried = stored.candidates().len() - left.len();
        rule.shown = *next;
        *state.typical.entry(typical(stored, *next, &prop)).or_default() += 1;
        true
    }

    /// The path of the place that was looked at last.
    pub(crate) fn path(&self) -> String {
        self.path_of(|last| Some(&last.prop))
    }

    /// The path of the object that contains this place.
    pub(super) fn path_above(&self) -> String {
        self.path_of(|_| None)
    }

    fn path_of(&self, prop: impl for<'l> Fn(&'l Last) -> Option<&'l Prop>) -> String {
        let Ok(state) = self.0.try_borrow() else { return String::new() };
        let Some(last) = &state.last else { return String::new() };
        let mut steps: Vec<&Prop> = prop(last).into_iter().collect();
        let mut node = last.parent;
        while let Some(object) = state.nodes.get(node.wrapping_sub(1)) {
            steps.push(&object.prop);
            node = object.parent;
        }
        super::steps::written(steps.into_iter().rev())
    }

    /// Whether there is no value at the place that was looked at last.
    pub(super) fn is_missing(&self) -> bool {
        let state = self.0.borrow();
        state.last.as_ref().is_some_and(|last| last.stored == Kind::Missing)
    }

    /// A description of the value at the place that was looked at last.
    pub(super) fn found(&self) -> String {
        let state = self.0.borrow();
        match &state.last {
            None => "a map".to_owned(),
            Some(last) if last.stored == Kind::Text => "a text object".to_owned(),
            Some(last) => last.value.as_ref().map_or("a map or a list".to_owned(), described),
        }
    }
}

/// The same number as another kind, if that can represent it.
fn converted(scalar: &ScalarValue, kind: Kind) -> Option<ScalarValue> {
    let whole = match scalar {
        ScalarValue::Int(value) | ScalarValue::Timestamp(value) => i128::from(*value),
        ScalarValue::Uint(value) => i128::from(*value),
        ScalarValue::Counter(counter) => i128::from(i64::from(counter)),
        ScalarValue::F64(value) if value.fract() == 0.0 && value.abs() < EXACT => *value as i128,
        _ => return None,
    };
    match kind {
        Kind::Int => i64::try_from(whole).ok().map(ScalarValue::Int),
        Kind::Uint => u64::try_from(whole).ok().map(ScalarValue::Uint),
        Kind::F64 if (whole as f64).abs() < EXACT => Some(ScalarValue::F64(whole as f64)),
        _ => None,
    }
}

/// 2^53: every integer below it is a float, and every such float denotes one integer.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Whether two values denote the same, whatever their kinds.
pub(super) fn says_the_same(one: &ScalarValue, other: &ScalarValue) -> bool {
    match (one, other) {
        (ScalarValue::F64(one), ScalarValue::F64(other)) => one.to_bits() == other.to_bits(),
        (ScalarValue::F64(_), number) => {
            converted(number, Kind::F64).is_some_and(|number| number == *one)
        }
        (number, ScalarValue::F64(_)) => says_the_same(other, number),
        (one, other) => {
            let wholes = (converted(one, Kind::Int), converted(other, Kind::Int));
            one == other || matches!(wholes, (Some(one), Some(other)) if one == other)
        }
    }
}

/// A plain value for an error's description: texts and bytes, which would have to be copied, are left
/// out.
fn outline(scalar: &ScalarValue) -> ScalarValue {
    match scalar {
        ScalarValue::Str(_) => ScalarValue::Str("".into()),
        ScalarValue::Bytes(_) => ScalarValue::Bytes(Vec::new()),
        ScalarValue::Unknown { type_code, .. } => {
            ScalarValue::Unknown { type_code: *type_code, bytes: Vec::new() }
        }
        small => small.clone(),
    }
}

fn described(scalar: &ScalarValue) -> String {
    match scalar {
        ScalarValue::Null => "null".to_owned(),
        ScalarValue::Boolean(value) => format!("the boolean {value}"),
        ScalarValue::Int(value) => format!("the integer {value}"),
        ScalarValue::Uint(value) => format!("the unsigned integer {value}"),
        ScalarValue::F64(value) => format!("the float {value}"),
        ScalarValue::Counter(_) => "a counter".to_owned(),
        ScalarValue::Timestamp(_) => "a timestamp".to_owned(),
        ScalarValue::Bytes(_) => "bytes".to_owned(),
        ScalarValue::Str(_) => "a string".to_owned(),
        ScalarValue::Unknown { .. } => "a value of an unknown kind".to_owned(),
    }
}
