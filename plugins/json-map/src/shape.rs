//! A whole body: the fields alone, or set on what is kept of the input.

use gristmill_json::{Location, Path, Value};

use crate::field::{self, Field, Problem, Scope, Source};

/// What comes out for a body, or for one item of it.
#[derive(Debug)]
pub(crate) struct Shape {
    fields: Vec<(String, Field)>,
    /// With `rest: keep`, what is taken out of the input: what was renamed, and what the configuration removes.
    without: Option<Vec<Path>>,
}

impl Shape {
    /// `keep` is what to remove from the rest, or none to drop the rest.
    pub(crate) fn new(fields: Vec<(String, Field)>, keep: Option<Vec<Path>>) -> Self {
        let without = keep.map(|mut without| {
            for (name, field) in &fields {
                // A field that keeps its name is replaced in its place, not taken out and put at the end.
                let own =
                    Path::parse(&format!("$['{}']", name.replace('\\', r"\\").replace('\'', r"\'"))).ok();
                taken(&field.source, &mut |path| {
                    if own.as_ref().is_none_or(|own| !own.same_place(path)) {
                        without.push(path.clone());
                    }
                });
            }
            without
        });
        Shape { fields, without }
    }

    /// What comes out for `scope.item`.
    pub(crate) fn map<'a>(&'a self, scope: Scope<'_, 'a>) -> Result<Value<'a>, Problem> {
        let fields = field::object(&self.fields, scope)?;
        let Some(without) = &self.without else { return Ok(Value::Object(fields)) };
        let mut rest = scope.item.clone();
        let mut places: Vec<Location> = without.iter().flat_map(|path| path.locations(scope.item)).collect();
        // From the end, so that a removal does not move the places before it.
        places.sort_unstable();
        places.dedup();
        for place in places.iter().rev() {
            place.remove(&mut rest);
        }
        let Value::Object(mut kept) = rest else {
            return Err(Problem::new(format!(
                "`rest: keep` needs an object, and the input is {}",
                scope.item.kind()
            )));
        };
        for (name, value) in fields {
            kept.set(name, value);
        }
        Ok(Value::Object(kept))
    }
}

/// The single places that a source moves values from, relative to the item.
fn taken(source: &Source, visit: &mut impl FnMut(&Path)) {
    match source {
        Source::Path(place) if place.path.is_singular() && !place.from_root => visit(&place.path),
        Source::Object(fields) => fields.iter().for_each(|(_, field)| taken(&field.source, visit)),
        Source::FirstOf(fields) => fields.iter().for_each(|field| taken(&field.source, visit)),
        _ => {}
    }
}
