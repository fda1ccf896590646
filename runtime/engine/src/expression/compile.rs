//! From the text of an expression to its nodes: parse, check, build. The crate `cel` parses; what the grammar does not
//! say is checked here, so that an unknown name, a wrong pattern or a call that cannot work is found when a flow is
//! loaded and not by its first message.
//!
//! `cel` also has an evaluator. It is not used, because an evaluation cannot be bounded from outside of it: there is no
//! interruption, an error raised by a function is swallowed by `&&`, `||`, `all` and `exists`, and elements are copied
//! as comprehensions walk over them. Its macros are left unexpanded for the same reason: a comprehension is one node.

use std::{collections::BTreeSet, ops::Range, sync::Arc, thread};

use cel::{
    Env, ParseErrors,
    common::ast::{
        CallExpr, EntryExpr, Expr, IdedExpr, LiteralValue, SelectExpr, SourceInfo, operators as op,
    },
};
use gristmill_core::config::nearest;

use super::{
    budget::{MAX_COMPREHENSION_NESTING, MAX_NESTING, MAX_TEXT_BYTES},
    error::CompileError,
    functions::{ELSEWHERE, FUNCTIONS, Function, LITERAL_FUNCTIONS, LiteralFunction, Style},
    jsonpath::JsonPath,
    node::{Comprehension, FlowField, MessageField, Node, Step},
    operators::{Arithmetic, Comparison},
    pattern::Pattern,
    time,
    value::{Kind, Value},
};

/// The variables that every expression has.
const VARIABLES: [&str; 4] = ["headers", "body", "message", "flow"];

/// The macros that are called on a list or a map.
const COMPREHENSIONS: [&str; 6] = ["all", "exists", "exists_one", "existsOne", "filter", "map"];

/// Namespaces of functions.
const NAMESPACES: [&str; 2] = ["base64", "json"];

/// The stack of the thread that parses. The parser recurses over chains too (`a.b.c`, `1 + 2 + 3`), which its own limit
/// on nesting does not see: the longest text of them takes 12 MiB unoptimised. Only what is used becomes memory.
const PARSER_STACK_BYTES: usize = 64 * 1024 * 1024;

/// Compiles the text of an expression.
pub(crate) fn compile(text: &str) -> Result<Node, CompileError> {
    if text.len() > MAX_TEXT_BYTES {
        return Err(CompileError::new(text, format!("the expression is longer than {MAX_TEXT_BYTES} bytes"))
            .mend("shorten it, or do the work in a plugin"));
    }
    if text.trim().is_empty() {
        return Err(
            CompileError::new(text, "the expression is empty").mend("write one, e.g. `body.total > 100`")
        );
    }
    thread::scope(|scope| {
        let parser = thread::Builder::new()
            .name("expression".to_owned())
            .stack_size(PARSER_STACK_BYTES)
            .spawn_scoped(scope, || parse_and_lower(text));
        match parser.map(thread::ScopedJoinHandle::join) {
            Ok(Ok(result)) => result,
            // A panic of the parser: a text that it should have refused.
            Ok(Err(_)) => Err(CompileError::new(text, "the expression cannot be parsed")),
            Err(error) => Err(CompileError::new(
                text,
                format!("no thread could be started to parse the expression: {error}"),
            )),
        }
    })
}

fn parse_and_lower(text: &str) -> Result<Node, CompileError> {
    let parser = Env::default().with_optional_support(false).parser();
    let nesting = u16::try_from(MAX_NESTING).unwrap_or(u16::MAX);
    let (expr, info) = parser
        .max_recursion_depth(nesting)
        .parse_with_source_info(text)
        .map_err(|errors| syntax_error(text, &errors))?;
    Compiler { text, info, variables: Vec::new(), nesting: 0 }.node(&expr)
}

/// The first error of the parser, in words for a person.
fn syntax_error(text: &str, errors: &ParseErrors) -> CompileError {
    let Some(error) = errors.errors.first() else {
        return CompileError::new(text, "the expression cannot be parsed");
    };
    let message = error.msg.strip_prefix("Syntax error: ").unwrap_or(&error.msg);
    let quoted = |after: &str| {
        let rest = message.split_once(after)?.1;
        let token = rest.strip_prefix('\'')?;
        // What may follow the token: a list of all that would have been right, or nothing.
        let token = token.split_once("' expecting").map_or(token, |(token, _)| token);
        Some(token.strip_suffix('\'').unwrap_or(token).to_owned())
    };
    let found = quoted("extraneous input ")
        .or_else(|| quoted("mismatched input "))
        .or_else(|| quoted("no viable alternative at input "))
        .or_else(|| quoted("token recognition error at: "))
        .or_else(|| message.starts_with("missing ").then(|| quoted(" at ")).flatten());
    let at = offset_of(text, error.pos);
    let (sentence, length) = match found.as_deref() {
        _ if message.contains("Recursion limit") => {
            return CompileError::new(text, format!("the expression nests deeper than {MAX_NESTING}"))
                .mend("take it apart into steps, or do the work in a plugin");
        }
        Some("<EOF>") => {
            let error = CompileError::new(text, "the expression ends too soon").at(text, at..at);
            return error.mend("write what is missing at its end: an operand, a bracket, a quote");
        }
        Some(token) => {
            let token: String = token.trim().chars().take(20).collect();
            let length = token.len();
            (format!("`{token}` is not expected here"), length)
        }
        None => {
            let message: String = message.chars().take(120).collect();
            (format!("the expression cannot be parsed: {message}"), 0)
        }
    };
    let error = CompileError::new(text, sentence).at(text, at..at + length);
    match syntax_mend(text.get(at..).unwrap_or_default()) {
        Some(mend) => error.mend(mend),
        None => error,
    }
}

/// What someone probably meant who wrote this where the parser stopped.
fn syntax_mend(rest: &str) -> Option<&'static str> {
    const MENDS: [(&str, &str); 7] = [
        ("and ", "write `&&`"),
        ("or ", "write `||`"),
        ("not ", "write `!`"),
        ("==", "write `==` to compare"),
        ("=", "write `==` to compare"),
        ("&", "write `&&`"),
        ("|", "write `||`"),
    ];
    MENDS.iter().find(|(written, _)| rest.starts_with(written)).map(|(_, mend)| *mend)
}

/// The byte offset of a line (from 1) and a column (from 1, in characters).
fn offset_of(text: &str, (line, column): (isize, isize)) -> usize {
    let before: usize =
        text.split_inclusive('\n').take(usize::try_from(line - 1).unwrap_or_default()).map(str::len).sum();
    let rest = text.get(before..).unwrap_or_default();
    let chars = usize::try_from(column - 1).unwrap_or_default();
    before + rest.char_indices().nth(chars).map_or(rest.len(), |(at, _)| at)
}

/// The walk over what the parser gives.
struct Compiler<'t> {
    text: &'t str,
    info: SourceInfo,
    /// The variables of the comprehensions around the part that is being compiled.
    variables: Vec<Arc<str>>,
    nesting: usize,
}

// === impl Compiler ===

impl Compiler<'_> {
    fn error(&self, id: u64, text: impl Into<String>) -> CompileError {
        let error = CompileError::new(self.text, text);
        match self.range(id) {
            Some(range) => error.at(self.text, range),
            None => error,
        }
    }

    /// An error about a name, which stands at the part or shortly before it.
    fn error_at_name(&self, id: u64, name: &str, text: impl Into<String>) -> CompileError {
        let error = CompileError::new(self.text, text);
        let Some(range) = self.range(id) else { return error };
        let (before, rest) = (self.text.get(..range.start), self.text.get(range.start..).unwrap_or_default());
        let name_on = rest.trim_start_matches(|c: char| c == '.' || c.is_whitespace());
        let start = if name_on.starts_with(name) {
            Some(self.text.len() - name_on.len())
        } else {
            before.and_then(|before| before.rfind(name))
        };
        match start {
            Some(start) => error.at(self.text, start..start + name.len()),
            None => error.at(self.text, range),
        }
    }

    fn range(&self, id: u64) -> Option<Range<usize>> {
        let (start, last) = self.info.offset_for(id)?;
        Some(start as usize..last as usize + 1)
    }

    fn node(&mut self, expr: &IdedExpr) -> Result<Node, CompileError> {
        if self.nesting >= MAX_NESTING {
            return Err(self
                .error(expr.id, format!("the expression nests deeper than {MAX_NESTING}"))
                .mend("take it apart into steps, or do the work in a plugin"));
        }
        self.nesting += 1;
        let node = self.node_inside(expr);
        self.nesting -= 1;
        node
    }

    fn boxed(&mut self, expr: &IdedExpr) -> Result<Box<Node>, CompileError> {
        self.node(expr).map(Box::new)
    }

    fn node_inside(&mut self, expr: &IdedExpr) -> Result<Node, CompileError> {
        match &expr.expr {
            Expr::Literal(literal) => self.literal(expr.id, literal).map(Node::Constant),
            Expr::Ident(name) => self.identifier(expr.id, name),
            Expr::Select(select) => self.select(expr.id, select),
            Expr::Call(call) => self.call(expr.id, call),
            Expr::List(list) => {
                let items = list.elements.iter().map(|item| self.node(item)).collect::<Result<_, _>>()?;
                Ok(Node::List(items))
            }
            Expr::Map(map) => {
                let mut entries = Vec::with_capacity(map.entries.len());
                for entry in &map.entries {
                    let EntryExpr::MapEntry(pair) = &entry.expr else {
                        return Err(self.error(entry.id, "a map has `key: value` entries"));
                    };
                    let key = self.node(&pair.key)?;
                    if key.kind().is_some_and(|kind| kind != Kind::String) {
                        return Err(self
                            .error(pair.key.id, "a key of a map is a string: JSON has no other keys")
                            .mend("put the key in quotes"));
                    }
                    entries.push((key, self.node(&pair.value)?));
                }
                Ok(Node::Map(entries))
            }
            Expr::Struct(object) => Err(self
                .error(expr.id, format!("there is no message type `{}`", object.type_name))
                .mend("write a map: {\"key\": value}")),
            Expr::Comprehension(_) | Expr::Unspecified => {
                Err(self.error(expr.id, "the expression cannot be parsed"))
            }
        }
    }

    fn literal(&self, id: u64, literal: &LiteralValue) -> Result<Value, CompileError> {
        Ok(match literal {
            LiteralValue::Null => Value::Null,
            LiteralValue::Boolean(b) => Value::Bool(*b.inner()),
            LiteralValue::Int(i) => Value::Int(*i.inner()),
            LiteralValue::UInt(u) => Value::Uint(*u.inner()),
            LiteralValue::Double(d) => Value::Double(*d.inner()),
            LiteralValue::String(text) => Value::from(text.inner()),
            LiteralValue::Bytes(_) => {
                return Err(self
                    .error(id, "expressions have no bytes")
                    .mend("write a string, without the b"));
            }
        })
    }

    /// The slot of a variable, the innermost of that name.
    fn variable(&self, name: &str) -> Option<usize> {
        self.variables.iter().rposition(|variable| **variable == *name)
    }

    fn identifier(&self, id: u64, name: &str) -> Result<Node, CompileError> {
        if let Some(slot) = self.variable(name) {
            return Ok(Node::Local { slot, name: name.into() });
        }
        match name {
            "body" => return Ok(Node::Body),
            "headers" => return Ok(Node::Headers),
            "message" => {
                return Err(self
                    .error(id, "`message` alone is no value")
                    .mend(format!("write one of {}", fields("message", &MessageField::ALL))));
            }
            "flow" => {
                return Err(self
                    .error(id, "`flow` alone is no value")
                    .mend(format!("write one of {}", fields("flow", &FlowField::ALL))));
            }
            _ => {}
        }
        if let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.name() == name) {
            return Ok(Node::Constant(Value::Type(kind)));
        }
        Err(self.unknown_name(id, name))
    }

    fn unknown_name(&self, id: u64, name: &str) -> CompileError {
        let error = self.error_at_name(id, name, format!("there is no variable `{name}`"));
        if let Some(header) =
            error.range.as_ref().and_then(|range| header_with_hyphens(self.text, range.start))
        {
            return error.mend(format!("a header whose name has hyphens is written headers[\"{header}\"]"));
        }
        let known = VARIABLES.into_iter().chain(self.variables.iter().map(|variable| &**variable));
        if let Some(near) = nearest(name, known) {
            return error.mend(format!("did you mean `{near}`?"));
        }
        error.mend("the variables are `headers`, `body`, `message` and `flow`; a text stands in quotes")
    }

    fn field<T: Copy>(&self, id: u64, of: &str, known: &[(&str, T)], field: &str) -> Result<T, CompileError> {
        if let Some((_, found)) = known.iter().find(|(name, _)| *name == field) {
            return Ok(*found);
        }
        let error = self.error_at_name(id, field, format!("`{of}` has no field `{field}`"));
        Err(match nearest(field, known.iter().map(|(name, _)| *name)) {
            Some(near) => error.mend(format!("did you mean `{of}.{near}`?")),
            None => error.mend(format!("write one of {}", fields(of, known))),
        })
    }

    /// One of the variables that are not values but places to look in, unless a comprehension's variable hides it.
    fn place<'e>(&self, expr: &'e IdedExpr) -> Option<&'e str> {
        match &expr.expr {
            Expr::Ident(name) if self.variable(name).is_none() => Some(name),
            _ => None,
        }
    }

    fn select(&mut self, id: u64, select: &SelectExpr) -> Result<Node, CompileError> {
        match self.place(&select.operand) {
            Some("headers") => return Ok(Node::Header(select.field.to_ascii_lowercase().into())),
            Some("message") => {
                return self.field(id, "message", &MessageField::ALL, &select.field).map(Node::Message);
            }
            Some("flow") => return self.field(id, "flow", &FlowField::ALL, &select.field).map(Node::Flow),
            _ => {}
        }
        let operand = self.node(&select.operand)?;
        Ok(extended(operand, Step::Field(select.field.as_str().into())))
    }

    fn index(&mut self, operand: &IdedExpr, index: &IdedExpr) -> Result<Node, CompileError> {
        let place = self.place(operand);
        let index_node = self.node(index)?;
        match (place, index_node) {
            (Some("headers"), Node::Constant(Value::String(name))) => {
                Ok(Node::Header(name.to_ascii_lowercase().into()))
            }
            (Some("headers"), name) => Ok(Node::HeaderNamedBy(Box::new(name))),
            (_, index) => {
                let operand = self.node(operand)?;
                Ok(extended(operand, Step::Index(index)))
            }
        }
    }

    fn call(&mut self, id: u64, call: &CallExpr) -> Result<Node, CompileError> {
        if let Some(target) = &call.target {
            return self.member_call(id, target, &call.func_name, &call.args);
        }
        let name = call.func_name.as_str();
        match (name, call.args.as_slice()) {
            (op::CONDITIONAL, [condition, then, otherwise]) => {
                let condition_id = condition.id;
                let condition = self.boxed(condition)?;
                self.want_bool(condition_id, "? :", &condition)?;
                Ok(Node::Conditional {
                    condition,
                    then: self.boxed(then)?,
                    otherwise: self.boxed(otherwise)?,
                })
            }
            (op::LOGICAL_AND | op::LOGICAL_OR, [left, right]) => {
                let (left_id, right_id) = (left.id, right.id);
                let (left, right) = (self.boxed(left)?, self.boxed(right)?);
                let (written, node): (_, fn(_, _) -> _) =
                    if name == op::LOGICAL_AND { ("&&", Node::And) } else { ("||", Node::Or) };
                self.want_bool(left_id, written, &left)?;
                self.want_bool(right_id, written, &right)?;
                Ok(node(left, right))
            }
            (op::LOGICAL_NOT, [operand]) => {
                let operand_id = operand.id;
                let operand = self.boxed(operand)?;
                self.want_bool(operand_id, "!", &operand)?;
                Ok(Node::Not(operand))
            }
            (op::NEGATE, [operand]) => self.boxed(operand).map(Node::Negate),
            (op::INDEX, [operand, index]) => self.index(operand, index),
            (op::IN, [value, container]) => match (self.place(container), self.node(value)?) {
                (Some("headers"), Node::Constant(Value::String(name))) => {
                    Ok(Node::HasHeader(name.to_ascii_lowercase().into()))
                }
                (Some("headers"), name) => Ok(Node::HasHeaderNamedBy(Box::new(name))),
                (_, value) => Ok(Node::In(Box::new(value), self.boxed(container)?)),
            },
            (op::EQUALS | op::NOT_EQUALS, [left, right]) => Ok(Node::Equal {
                left: self.boxed(left)?,
                right: self.boxed(right)?,
                negated: name == op::NOT_EQUALS,
            }),
            (_, [left, right]) if arithmetic(name).is_some() || comparison(name).is_some() => {
                let (left, right) = (self.boxed(left)?, self.boxed(right)?);
                match (arithmetic(name), comparison(name)) {
                    (Some(operator), _) => Ok(Node::Arithmetic(operator, left, right)),
                    (_, Some(operator)) => Ok(Node::Compare(operator, left, right)),
                    (None, None) => Err(self.error(id, "the expression cannot be parsed")),
                }
            }
            (op::HAS, [path]) => self.has(path),
            (op::HAS, _) => Err(self.error_at_name(id, name, "`has` takes one path: has(body.total)")),
            (_, arguments) => self.function_call(id, name, Style::Global, None, arguments),
        }
    }

    /// Refuses what is known to be no bool where a bool is wanted.
    fn want_bool(&self, id: u64, operator: &str, node: &Node) -> Result<(), CompileError> {
        match node.kind() {
            None | Some(Kind::Bool) => Ok(()),
            Some(other) => {
                Err(self.error(id, format!("`{operator}` wants bools, and this is {}", other.noun())))
            }
        }
    }

    fn has(&mut self, path: &IdedExpr) -> Result<Node, CompileError> {
        let place = match &path.expr {
            Expr::Select(select) => self.place(&select.operand),
            _ => None,
        };
        let node = self.node(path)?;
        match (node, place) {
            (Node::Header(name), _) => Ok(Node::HasHeader(name)),
            (Node::HeaderNamedBy(name), _) => Ok(Node::HasHeaderNamedBy(name)),
            (Node::Path { root, steps }, _) => Ok(Node::Has { root, steps }),
            (Node::Message(MessageField::ContentType), _) => {
                Ok(Node::HasHeader(gristmill_core::message::CONTENT_TYPE.into()))
            }
            (_, Some("message" | "flow")) => Ok(Node::Constant(true.into())),
            _ => Err(self
                .error(path.id, "`has` takes a path to a key")
                .mend("write has(body.total), has(headers.x) or has(headers[\"x-y\"])")),
        }
    }

    fn member_call(
        &mut self,
        id: u64,
        target: &IdedExpr,
        name: &str,
        arguments: &[IdedExpr],
    ) -> Result<Node, CompileError> {
        if let Some(namespace) = self.place(target).filter(|place| NAMESPACES.contains(place)) {
            let name = format!("{namespace}.{name}");
            return self.function_call(id, &name, Style::Global, None, arguments);
        }
        if COMPREHENSIONS.contains(&name) {
            return self.comprehension(id, target, name, arguments);
        }
        self.function_call(id, name, Style::Member, Some(target), arguments)
    }

    fn comprehension(
        &mut self,
        id: u64,
        target: &IdedExpr,
        name: &str,
        arguments: &[IdedExpr],
    ) -> Result<Node, CompileError> {
        let range = self.boxed(target)?;
        if let Some(kind) = range.kind().filter(|kind| !matches!(kind, Kind::List | Kind::Map)) {
            return Err(self.error(
                target.id,
                format!("`{name}` goes over a list or a map, and this is {}", kind.noun()),
            ));
        }
        let (variable, rest) = match arguments {
            [variable, rest @ ..] if rest.len() == 1 || (name == "map" && rest.len() == 2) => {
                (variable, rest)
            }
            _ => {
                return Err(self
                    .error_at_name(id, name, format!("`{name}` takes a variable and an expression"))
                    .mend(match name {
                        "map" => "write list.map(x, x.name) or list.map(x, x.wanted, x.name)".to_owned(),
                        _ => format!("write list.{name}(x, x.total > 0)"),
                    }));
            }
        };
        let variable = match &variable.expr {
            Expr::Ident(name) if !name.starts_with('.') && !VARIABLES.contains(&name.as_str()) => name,
            Expr::Ident(name) if VARIABLES.contains(&name.as_str()) => {
                return Err(
                    self.error(variable.id, format!("a variable cannot be called `{name}`, which is taken"))
                );
            }
            _ => {
                return Err(self
                    .error(variable.id, format!("the first argument of `{name}` is a name for the element"))
                    .mend(format!("write list.{name}(x, …)")));
            }
        };
        let slot = self.variables.len();
        if slot >= MAX_COMPREHENSION_NESTING {
            return Err(self
                .error_at_name(
                    id,
                    name,
                    format!(
                        "all, exists, exists_one, filter and map nest deeper than {MAX_COMPREHENSION_NESTING}"
                    ),
                )
                .mend("use jsonpath(…), or do the work in a plugin"));
        }
        self.variables.push(variable.as_str().into());
        let parts = rest
            .iter()
            .map(|part| self.boxed(part).map(|node| (part.id, node)))
            .collect::<Result<Vec<_>, _>>();
        self.variables.truncate(slot);
        let mut parts = parts?;
        let Some((last_id, last)) = parts.pop() else {
            return Err(self.error(id, "the expression cannot be parsed"));
        };
        let guard = parts.pop();
        if let Some((guard_id, guard)) = &guard {
            self.want_bool(*guard_id, name, guard)?;
        }
        if name != "map" {
            self.want_bool(last_id, name, &last)?;
        }
        let what = match name {
            "all" => Comprehension::All(last),
            "exists" => Comprehension::Exists(last),
            "filter" => Comprehension::Filter(last),
            "map" => Comprehension::Map { guard: guard.map(|(_, guard)| guard), to: last },
            _ => Comprehension::ExistsOne(last),
        };
        Ok(Node::Comprehension { range, slot, what })
    }

    fn function_call(
        &mut self,
        id: u64,
        name: &str,
        called_as: Style,
        target: Option<&IdedExpr>,
        arguments: &[IdedExpr],
    ) -> Result<Node, CompileError> {
        let fits = |style: Style| style == Style::Both || style == called_as;
        let count = arguments.len() + usize::from(target.is_some());
        if let Some((_, style, literal)) = LITERAL_FUNCTIONS.iter().find(|(known, ..)| *known == name) {
            return match (target.into_iter().chain(arguments).collect::<Vec<_>>().as_slice(), fits(*style)) {
                (_, false) => Err(self.other_style(id, name, *style)),
                ([value, literal_argument], true) => {
                    let value = self.boxed(value)?;
                    self.literal_call(id, name, *literal, value, literal_argument)
                }
                (_, true) => {
                    Err(self.error_at_name(id, name, format!("`{name}` takes 2 arguments, not {count}")))
                }
            };
        }
        let Some(function) = FUNCTIONS.iter().find(|function| function.name == name) else {
            return Err(self.unknown_function(id, name, called_as));
        };
        if !fits(function.style) {
            return Err(self.other_style(id, name, function.style));
        }
        if count < function.arguments.0 || count > function.arguments.1 {
            return Err(self.argument_count(id, function, target.is_some(), arguments.len()));
        }
        let nodes = target.into_iter().chain(arguments).map(|argument| self.node(argument));
        Ok(Node::Call(function, nodes.collect::<Result<_, _>>()?))
    }

    fn literal_call(
        &mut self,
        id: u64,
        name: &str,
        function: LiteralFunction,
        value: Box<Node>,
        argument: &IdedExpr,
    ) -> Result<Node, CompileError> {
        let Expr::Literal(LiteralValue::String(literal)) = &argument.expr else {
            return Err(self.error(
                argument.id,
                format!("the last argument of `{name}` is a text in quotes, known before it runs"),
            ));
        };
        let literal = literal.inner();
        let wrong = |problem: String| self.error(argument.id, problem);
        if let Some(kind) = value.kind() {
            let wants = match function {
                LiteralFunction::Matches => Some(Kind::String),
                LiteralFunction::Strftime => Some(Kind::Timestamp),
                LiteralFunction::JsonPath => None,
            };
            if let Some(wants) = wants.filter(|wants| *wants != kind) {
                let text = format!("`{name}` wants {}, and this is {}", wants.noun(), kind.noun());
                return Err(self.error_at_name(id, name, text));
            }
        }
        match function {
            LiteralFunction::Matches => {
                Ok(Node::Matches(value, Arc::new(Pattern::compile(literal).map_err(|text| {
                    wrong(text).mend("write it in the syntax of RE2; a character that is meant as it is has `\\\\` before it")
                })?)))
            }
            LiteralFunction::JsonPath => {
                Ok(Node::JsonPath(value, Arc::new(JsonPath::compile(literal).map_err(|text| {
                    wrong(text).mend("write a path of RFC 9535, e.g. `$.items[*].price`")
                })?)))
            }
            LiteralFunction::Strftime => {
                time::check_format(literal)
                    .map_err(|text| wrong(text).mend("write a format such as `%Y-%m-%d`"))?;
                Ok(Node::Strftime(value, literal.into()))
            }
        }
    }

    fn other_style(&self, id: u64, name: &str, style: Style) -> CompileError {
        let (text, mend) = match style {
            Style::Member => (format!("`{name}` is called on a value"), format!("write value.{name}(…)")),
            _ => (format!("`{name}` is not called on a value"), format!("write {name}(value, …)")),
        };
        self.error_at_name(id, name, text).mend(mend)
    }

    fn argument_count(&self, id: u64, function: &Function, member: bool, given: usize) -> CompileError {
        let before_the_dot = usize::from(member);
        let (least, most) = (function.arguments.0 - before_the_dot, function.arguments.1 - before_the_dot);
        let wanted = if least == most { least.to_string() } else { format!("{least} or {most}") };
        let plural = if wanted == "1" { "" } else { "s" };
        let text = format!("`{}` takes {wanted} argument{plural}, not {given}", function.name);
        self.error_at_name(id, function.name, text)
    }

    fn unknown_function(&self, id: u64, name: &str, called_as: Style) -> CompileError {
        let written = name.rsplit('.').next().unwrap_or(name);
        let error = self.error_at_name(id, written, format!("there is no function `{name}`"));
        if COMPREHENSIONS.contains(&name) {
            return error.mend(format!("write list.{name}(x, …)"));
        }
        if name == "now" {
            return error
                .mend("expressions have no clock: use `message.timestamp`, when the message was accepted");
        }
        let elsewhere = ELSEWHERE.iter().find(|(theirs, _)| *theirs == name).map(|(_, ours)| *ours);
        let known = FUNCTIONS
            .iter()
            .map(|function| function.name)
            .chain(LITERAL_FUNCTIONS.iter().map(|(name, ..)| *name))
            .chain(COMPREHENSIONS)
            .chain([op::HAS]);
        match elsewhere.or_else(|| nearest(name, known.clone())) {
            Some(near) => error.mend(format!("did you mean `{near}`?")),
            None if called_as == Style::Member => error.mend("a key is read without brackets: body.total"),
            None => {
                let known: BTreeSet<&str> = known.collect();
                error.mend(format!("known: `{}`", known.into_iter().collect::<Vec<_>>().join("`, `")))
            }
        }
    }
}

/// A path one step longer.
fn extended(operand: Node, step: Step) -> Node {
    match operand {
        Node::Path { root, mut steps } => {
            steps.push(step);
            Node::Path { root, steps }
        }
        root => Node::Path { root: Box::new(root), steps: vec![step] },
    }
}

fn arithmetic(name: &str) -> Option<Arithmetic> {
    Some(match name {
        op::ADD => Arithmetic::Add,
        op::SUBSTRACT => Arithmetic::Subtract,
        op::MULTIPLY => Arithmetic::Multiply,
        op::DIVIDE => Arithmetic::Divide,
        op::MODULO => Arithmetic::Remainder,
        _ => return None,
    })
}

fn comparison(name: &str) -> Option<Comparison> {
    Some(match name {
        op::LESS => Comparison::Less,
        op::LESS_EQUALS => Comparison::LessOrEqual,
        op::GREATER => Comparison::Greater,
        op::GREATER_EQUALS => Comparison::GreaterOrEqual,
        _ => return None,
    })
}

/// `of.a, of.b, …`
fn fields<T>(of: &str, known: &[(&str, T)]) -> String {
    known.iter().map(|(name, _)| format!("`{of}.{name}`")).collect::<Vec<_>>().join(", ")
}

/// The header that was meant by `headers.x-request-id`, which the grammar reads as a subtraction: the name at `at` is
/// one of its parts.
fn header_with_hyphens(text: &str, at: usize) -> Option<&str> {
    let part_of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let before = text.get(..at)?;
    let start = before.rfind(|c: char| !part_of_name(c)).map_or(0, |at| at + 1);
    let word = text.get(start..)?;
    let word = word.get(..word.find(|c: char| !part_of_name(c)).unwrap_or(word.len()))?;
    word.strip_prefix("headers.").filter(|name| name.contains('-') && !name.contains('.'))
}
