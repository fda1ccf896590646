//! The walk over an expression. Each node pays a step before it does anything, and pays for what it reads and makes, so
//! the walk ends within its budget whatever the message holds. It recurses no deeper than
//! [`MAX_NESTING`](super::MAX_NESTING).

use std::sync::Arc;

use super::{
    budget::Budget,
    error::{EvalError, shorten},
    functions::MAX_ARGUMENTS,
    node::{Comprehension, Node, Step, describe},
    operators::{contained, equal, negate},
    scope::Scope,
    time,
    value::Value,
};

/// What an error that another operand settles costs: its text was made for nothing.
const SETTLED_ERROR_STEPS: u64 = 16;

/// What making a map costs, and each of its entries: allocating and hashing.
const MAP_STEPS: u64 = 6;

/// One evaluation: of an expression, or of all expressions of a template together.
#[derive(Debug)]
pub(crate) struct Evaluation<'s, 'm> {
    scope: &'s Scope<'m>,
    budget: Budget,
    /// The variables of the comprehensions around the node that is being evaluated.
    locals: Vec<Value>,
}

/// Whether a comprehension over the rest of its range is still needed.
enum Next {
    Go,
    Stop,
}

// === impl Evaluation ===

impl<'s, 'm> Evaluation<'s, 'm> {
    /// With a whole budget.
    pub(crate) fn new(scope: &'s Scope<'m>) -> Self {
        Self { scope, budget: Budget::new(scope.message().body().len()), locals: Vec::new() }
    }

    /// What is left to spend.
    pub(crate) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// The value of a node.
    pub(crate) fn value(&mut self, node: &Node) -> Result<Value, EvalError> {
        self.budget.steps(1)?;
        match node {
            Node::Constant(value) => Ok(value.clone()),
            Node::Body => self.scope.body().cloned(),
            Node::Header(name) => self.header(name),
            Node::HeaderNamedBy(name) => {
                let name = self.header_name(name)?;
                self.header(&name)
            }
            Node::HasHeader(name) => Ok(self.scope.header(name).is_some().into()),
            Node::HasHeaderNamedBy(name) => {
                let name = self.header_name(name)?;
                Ok(self.scope.header(&name).is_some().into())
            }
            Node::Headers => Ok(self.scope.headers().clone()),
            Node::Message(field) => self.scope.message_field(*field),
            Node::Flow(field) => Ok(self.scope.flow_field(*field)),
            Node::Local { slot, .. } => Ok(self.local(*slot)),
            Node::Path { root, steps } => self.path(root, steps),
            Node::Has { root, steps } => self.has(root, steps).map(Value::Bool),
            Node::List(items) => {
                let items = items.iter().map(|item| self.value(item)).collect::<Result<_, _>>()?;
                Value::list(items, &self.budget)
            }
            Node::Map(entries) => self.map(entries),
            Node::And(left, right) => self.junction("&&", left, right, false).map(Value::Bool),
            Node::Or(left, right) => self.junction("||", left, right, true).map(Value::Bool),
            Node::Not(operand) => self.bool("!", operand).map(|b| Value::Bool(!b)),
            Node::Negate(operand) => negate(&self.value(operand)?),
            Node::Conditional { condition, then, otherwise } => {
                if self.bool("? :", condition)? {
                    self.value(then)
                } else {
                    self.value(otherwise)
                }
            }
            Node::Arithmetic(operator, left, right) => {
                let (left, right) = (self.value(left)?, self.value(right)?);
                operator.apply(&left, &right, &self.budget)
            }
            Node::Compare(operator, left, right) => {
                let (left, right) = (self.value(left)?, self.value(right)?);
                operator.apply(&left, &right, &self.budget).map(Value::Bool)
            }
            Node::Equal { left, right, negated } => {
                let (left, right) = (self.value(left)?, self.value(right)?);
                equal(&left, &right, &self.budget).map(|same| Value::Bool(same != *negated))
            }
            Node::In(value, container) => {
                let (value, container) = (self.value(value)?, self.value(container)?);
                contained(&value, &container, &self.budget).map(Value::Bool)
            }
            Node::Call(function, arguments) => {
                let mut values: [Value; MAX_ARGUMENTS] = Default::default();
                for (value, argument) in values.iter_mut().zip(arguments) {
                    *value = self.value(argument)?;
                }
                let values = values.get(..arguments.len()).unwrap_or_default();
                (function.implementation)(values, &self.budget)
            }
            Node::Matches(text, pattern) => match self.value(text)? {
                Value::String(text) => pattern.is_match(&text, &self.budget).map(Value::Bool),
                other => Err(EvalError::unfit(format!("`matches` wants a string, not {}", other.noun()))),
            },
            Node::JsonPath(root, path) => {
                let found = match &**root {
                    Node::Body => path.find(self.scope.body()?, &self.budget)?,
                    root => path.find(&self.value(root)?, &self.budget)?,
                };
                Ok(Value::List(Arc::new(found)))
            }
            Node::Strftime(time, format) => match self.value(time)? {
                Value::Timestamp(time) => Value::text(&time::format(time, format)?, &self.budget),
                other => Err(EvalError::unfit(format!("`strftime` wants a timestamp, not {}", other.noun()))),
            },
            Node::Comprehension { range, slot, what } => {
                let range = self.value(range)?;
                self.locals.push(Value::Null);
                let result = self.comprehension(&range, *slot, what);
                self.locals.truncate(*slot);
                result
            }
        }
    }

    /// The value of a node that must be a bool, as an operand of `operator`.
    fn bool(&mut self, operator: &str, node: &Node) -> Result<bool, EvalError> {
        match self.value(node)? {
            Value::Bool(b) => Ok(b),
            other => Err(EvalError::unfit(format!("`{operator}` wants bools, not {}", other.noun()))),
        }
    }

    /// `&&` and `||`: an operand that is `decisive` settles the result, even when the other one is an error.
    fn junction(
        &mut self,
        operator: &str,
        left: &Node,
        right: &Node,
        decisive: bool,
    ) -> Result<bool, EvalError> {
        match self.bool(operator, left) {
            Ok(left) if left == decisive => Ok(decisive),
            Ok(_) => self.bool(operator, right),
            Err(error) if error.can_be_settled() => {
                self.budget.steps(SETTLED_ERROR_STEPS)?;
                match self.bool(operator, right) {
                    Ok(right) if right == decisive => Ok(decisive),
                    Err(limit) if !limit.can_be_settled() => Err(limit),
                    _ => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }

    fn local(&self, slot: usize) -> Value {
        self.locals.get(slot).cloned().unwrap_or_default()
    }

    fn header(&self, name: &str) -> Result<Value, EvalError> {
        match self.scope.header(name) {
            Some(value) => Value::text(value, &self.budget),
            None => Err(EvalError::unfit(format!(
                "the message has no header `{0}`; test with `\"{0}\" in headers`",
                shorten(name)
            ))),
        }
    }

    fn header_name(&mut self, node: &Node) -> Result<String, EvalError> {
        match self.value(node)? {
            Value::String(name) => {
                self.budget.make(name.len())?;
                Ok(name.to_ascii_lowercase())
            }
            other => Err(EvalError::unfit(format!("a header's name is a string, not {}", other.noun()))),
        }
    }

    fn path(&mut self, root: &Node, steps: &[Step]) -> Result<Value, EvalError> {
        let owned;
        let mut at = match root {
            Node::Body => self.scope.body()?,
            root => {
                owned = self.value(root)?;
                &owned
            }
        };
        for (index, step) in steps.iter().enumerate() {
            self.budget.steps(1)?;
            let of = || describe(root, steps.get(..index).unwrap_or_default());
            at = match step {
                Step::Field(name) => self.field(at, name, of)?,
                Step::Index(node) => match self.value(node)? {
                    Value::String(key) => self.field(at, &key, of)?,
                    key => element(at, &key, of)?,
                },
            };
        }
        Ok(at.clone())
    }

    fn field<'v>(
        &self,
        of: &'v Value,
        name: &str,
        path: impl Fn() -> String,
    ) -> Result<&'v Value, EvalError> {
        self.budget.read(name.len())?;
        match of {
            Value::Map(map) => map
                .get(name)
                .ok_or_else(|| EvalError::unfit(format!("no such key `{}` in `{}`", shorten(name), path()))),
            other => Err(EvalError::unfit(format!(
                "no such key `{}` in `{}`, which is {}",
                shorten(name),
                path(),
                other.noun()
            ))),
        }
    }

    fn has(&mut self, root: &Node, steps: &[Step]) -> Result<bool, EvalError> {
        let owned;
        let mut at = match root {
            Node::Body => self.scope.body()?,
            root => {
                owned = self.value(root)?;
                &owned
            }
        };
        for step in steps {
            self.budget.steps(1)?;
            let key;
            let found = match step {
                Step::Field(name) => field_of(at, name),
                Step::Index(node) => {
                    key = self.value(node)?;
                    match &key {
                        Value::String(name) => field_of(at, name),
                        key => element(at, key, String::new).ok(),
                    }
                }
            };
            match found {
                Some(value) => at = value,
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    fn map(&mut self, entries: &[(Node, Node)]) -> Result<Value, EvalError> {
        self.budget.steps(MAP_STEPS * (1 + entries.len() as u64))?;
        let mut map = super::value::Map::with_capacity(entries.len());
        for (key, value) in entries {
            let Value::String(key) = self.value(key)? else {
                return Err(EvalError::unfit("a key of a map is a string: JSON has no other keys"));
            };
            let value = self.value(value)?;
            self.budget.make(2 * size_of::<Value>())?;
            self.budget.read(key.len())?;
            if map.contains_key(&key) {
                return Err(EvalError::unfit(format!("a map has the key `{}` twice", shorten(&key))));
            }
            map.insert(key, value);
        }
        Ok(Value::Map(Arc::new(map)))
    }

    fn comprehension(
        &mut self,
        range: &Value,
        slot: usize,
        what: &Comprehension,
    ) -> Result<Value, EvalError> {
        match what {
            Comprehension::All(condition) => self.quantify(range, slot, condition, "all", false),
            Comprehension::Exists(condition) => self.quantify(range, slot, condition, "exists", true),
            Comprehension::ExistsOne(condition) => {
                let mut count = 0_u64;
                self.each(range, slot, "exists_one", |this, _| {
                    count += u64::from(this.bool("exists_one", condition)?);
                    Ok(Next::Go)
                })?;
                Ok((count == 1).into())
            }
            Comprehension::Filter(condition) => {
                let mut kept = Vec::new();
                self.each(range, slot, "filter", |this, element| {
                    if this.bool("filter", condition)? {
                        this.budget.make(size_of::<Value>())?;
                        kept.push(element.clone());
                    }
                    Ok(Next::Go)
                })?;
                Ok(Value::List(Arc::new(kept)))
            }
            Comprehension::Map { guard, to } => {
                let mut made = Vec::new();
                self.each(range, slot, "map", |this, _| {
                    let keep = match guard {
                        Some(guard) => this.bool("map", guard)?,
                        None => true,
                    };
                    if keep {
                        this.budget.make(size_of::<Value>())?;
                        made.push(this.value(to)?);
                    }
                    Ok(Next::Go)
                })?;
                Ok(Value::List(Arc::new(made)))
            }
        }
    }

    /// `all` and `exists`: an element that is `decisive` settles the result, even when others are errors.
    fn quantify(
        &mut self,
        range: &Value,
        slot: usize,
        condition: &Node,
        name: &str,
        decisive: bool,
    ) -> Result<Value, EvalError> {
        let (mut settled, mut first_error) = (false, None);
        self.each(range, slot, name, |this, _| match this.bool(name, condition) {
            Ok(b) if b == decisive => {
                settled = true;
                Ok(Next::Stop)
            }
            Ok(_) => Ok(Next::Go),
            Err(error) if error.can_be_settled() => {
                this.budget.steps(SETTLED_ERROR_STEPS)?;
                first_error.get_or_insert(error);
                Ok(Next::Go)
            }
            Err(error) => Err(error),
        })?;
        match (settled, first_error) {
            (true, _) => Ok(decisive.into()),
            (false, Some(error)) => Err(error),
            (false, None) => Ok((!decisive).into()),
        }
    }

    /// Binds the variable to each element of a list, or each key of a map, in turn.
    fn each(
        &mut self,
        range: &Value,
        slot: usize,
        name: &str,
        mut with: impl FnMut(&mut Self, &Value) -> Result<Next, EvalError>,
    ) -> Result<(), EvalError> {
        let mut visit = |this: &mut Self, element: Value| {
            this.budget.steps(1)?;
            if let Some(local) = this.locals.get_mut(slot) {
                *local = element.clone();
            }
            with(this, &element)
        };
        match range {
            Value::List(items) => {
                for item in items.iter() {
                    if let Next::Stop = visit(self, item.clone())? {
                        break;
                    }
                }
                Ok(())
            }
            Value::Map(map) => {
                for key in map.keys() {
                    if let Next::Stop = visit(self, Value::String(key.clone()))? {
                        break;
                    }
                }
                Ok(())
            }
            other => {
                Err(EvalError::unfit(format!("`{name}` goes over a list or a map, not {}", other.noun())))
            }
        }
    }
}

/// The value of a key, if `of` is a map that has it.
fn field_of<'v>(of: &'v Value, name: &str) -> Option<&'v Value> {
    match of {
        Value::Map(map) => map.get(name),
        _ => None,
    }
}

/// The element of a list at a number.
fn element<'v>(of: &'v Value, index: &Value, path: impl Fn() -> String) -> Result<&'v Value, EvalError> {
    let Value::List(items) = of else {
        return Err(EvalError::unfit(format!(
            "`{}` is {}: it has no element at {}",
            path(),
            of.noun(),
            index.noun()
        )));
    };
    let at = match index {
        Value::Int(index) => usize::try_from(*index).ok(),
        Value::Uint(index) => usize::try_from(*index).ok(),
        Value::Double(index) if index.fract() == 0.0 && *index >= 0.0 => Some(*index as usize),
        Value::Double(_) => None,
        other => {
            return Err(EvalError::unfit(format!(
                "an index of a list is a whole number, not {}",
                other.noun()
            )));
        }
    };
    at.and_then(|at| items.get(at)).ok_or_else(|| {
        EvalError::unfit(format!("`{}` has {} elements, none at this index", path(), items.len()))
    })
}
