//! Temporary.
#![allow(missing_docs)]
use bytes::Bytes;
use gristmill_core::{Failure, Message};
use std::sync::Arc;
pub struct CompileError {
    pub text: String,
    pub mend: Option<String>,
}
pub struct Scope<'m>(&'m Message);
impl<'m> Scope<'m> {
    pub fn new(m: &'m Message, _: &Arc<str>, _: &Arc<str>) -> Self {
        Self(m)
    }
}
pub struct Expression(String);
impl Expression {
    pub fn compile(t: &str) -> Result<Self, CompileError> {
        Ok(Self(t.into()))
    }
    pub fn evaluate_bool(&self, _: &Scope<'_>) -> Result<bool, Failure> {
        Ok(self.0 == "true")
    }
    pub fn evaluate_string(&self, s: &Scope<'_>) -> Result<String, Failure> {
        Ok(String::from_utf8_lossy(s.0.body()).into_owned())
    }
    pub fn evaluate_body(&self, _: &Scope<'_>) -> Result<Bytes, Failure> {
        Ok(Bytes::from(self.0.clone()))
    }
}
pub struct Template(String);
impl Template {
    pub fn compile(t: &str) -> Result<Self, CompileError> {
        Ok(Self(t.into()))
    }
    pub fn render(&self, _: &Scope<'_>) -> Result<String, Failure> {
        Ok(self.0.clone())
    }
}
