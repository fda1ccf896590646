//! Schemas with what checks values against them. To compile one takes longer than to check all that a flow file says, so those of Rust
//! types, which are always the same, are compiled once.

use std::{
    any::TypeId,
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use jsonschema::{PatternOptions, Validator};
use schemars::JsonSchema;

use super::parse::{Schema, schema_of};

/// A schema, compiled.
#[derive(Debug)]
pub(super) struct Compiled {
    pub(super) schema: Schema,
    pub(super) validator: Validator,
}

/// Those of the types that were asked for. There are as many as the program has types of configuration.
static OF_TYPES: LazyLock<Mutex<HashMap<TypeId, Arc<Compiled>>>> = LazyLock::new(Mutex::default);

impl Compiled {
    /// The schema that a type derives.
    ///
    /// # Errors
    /// When it is no valid schema: a fault of the type.
    pub(super) fn of<T: JsonSchema + 'static>() -> Result<Arc<Self>, String> {
        let of_types = || OF_TYPES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = of_types().get(&TypeId::of::<T>()) {
            return Ok(Arc::clone(known));
        }
        // Whoever else asks meanwhile compiles it too, and one of them is kept.
        let schema = schema_of::<T>();
        let compiled = Arc::new(Self { validator: compile(&schema)?, schema });
        Ok(Arc::clone(of_types().entry(TypeId::of::<T>()).or_insert(compiled)))
    }
}

/// What checks values against this schema.
///
/// # Errors
/// When it is no valid schema.
pub(super) fn compile(schema: &Schema) -> Result<Validator, String> {
    jsonschema::options()
        .with_pattern_options(PatternOptions::regex())
        .build(schema)
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_type_has_its_own_and_has_it_once() {
        let number = Compiled::of::<u8>().unwrap();
        assert!(number.validator.is_valid(&json!(1)) && !number.validator.is_valid(&json!("1")));
        let text = Compiled::of::<String>().unwrap();
        assert!(text.validator.is_valid(&json!("1")) && !text.validator.is_valid(&json!(1)));
        assert!(Arc::ptr_eq(&number, &Compiled::of::<u8>().unwrap()));
    }
}
