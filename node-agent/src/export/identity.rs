//! When two resources, or two sets of attributes, are the same.

use crate::resource::Resource;
use agentsight_genai::telemetry::{Attributes, Value};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// A resource as a key: two with equal attributes in equal order are one.
#[derive(Clone, Debug)]
pub(super) struct ResourceKey(pub(super) Arc<Resource>);

impl PartialEq for ResourceKey {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || same(&self.0.attributes, &other.0.attributes)
    }
}

impl Eq for ResourceKey {}

impl Hash for ResourceKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        hash(&self.0.attributes, state);
    }
}

/// Attributes as a key: their order does not matter.
#[derive(Clone, Debug)]
pub(super) struct AttributesKey(Attributes);

impl AttributesKey {
    pub(super) fn new(mut attributes: Attributes) -> Self {
        attributes.sort_by(|(a, _), (b, _)| a.cmp(b));
        AttributesKey(attributes)
    }

    pub(super) fn attributes(&self) -> &Attributes {
        &self.0
    }
}

impl PartialEq for AttributesKey {
    fn eq(&self, other: &Self) -> bool {
        same(&self.0, &other.0)
    }
}

impl Eq for AttributesKey {}

impl Hash for AttributesKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        hash(&self.0, state);
    }
}

/// Unlike `==`, holds for a NaN with itself: else each one would be a new key.
fn same(a: &Attributes, b: &Attributes) -> bool {
    let value = |a: &Value, b: &Value| match (a, b) {
        (Value::Double(a), Value::Double(b)) => a.to_bits() == b.to_bits(),
        (a, b) => a == b,
    };
    a.len() == b.len() && a.iter().zip(b).all(|((ka, va), (kb, vb))| ka == kb && value(va, vb))
}

fn hash<H: Hasher>(attributes: &Attributes, state: &mut H) {
    for (key, value) in attributes {
        key.hash(state);
        match value {
            Value::Str(text) => text.hash(state),
            Value::Int(int) => int.hash(state),
            Value::Double(double) => double.to_bits().hash(state),
            Value::Bool(bool) => bool.hash(state),
            Value::Strs(texts) => texts.hash(state),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn equal_sets_are_one_key_in_any_order() {
        let a: Attributes = vec![("x".into(), Value::Int(1)), ("y".into(), Value::Double(f64::NAN))];
        let b: Attributes = a.iter().rev().cloned().collect();
        let mut keys = HashSet::new();
        assert!(keys.insert(AttributesKey::new(a)));
        assert!(!keys.insert(AttributesKey::new(b)));
        assert!(keys.insert(AttributesKey::new(vec![("x".into(), Value::Int(2))])));
    }
}
