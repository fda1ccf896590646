//! Routes a message by rules over its JSON body and its headers.

mod condition;
pub mod config;

use std::cell::OnceCell;

use gristmill_json::Value;
use gristmill_plugin::{Failure, Message, Router, Wants, export_router};

use condition::Condition;
use config::Config;

/// The plugin: rules in order, and where to go when none applies.
#[derive(Debug)]
pub struct ContentRouter {
    rules: Vec<Rule>,
    /// Stop at the first rule that applies.
    first_only: bool,
    default: Option<String>,
}

/// Goes to `route` when all conditions hold.
#[derive(Debug)]
struct Rule {
    route: String,
    when: Vec<Condition>,
}

/// A message whose body is parsed when the first condition asks for it: rules over headers alone take any body.
struct Candidate<'a> {
    message: &'a Message,
    body: OnceCell<Value<'a>>,
}

impl Router for ContentRouter {
    type Config = Config;

    fn wants() -> Wants {
        // Which headers are read stands in the configuration, which is not known yet.
        Wants::body().all_headers()
    }

    fn configure(config: Config) -> Result<Self, String> {
        config.check()
    }

    fn route(&self, message: Message) -> Result<Vec<String>, Failure> {
        let candidate = Candidate { message: &message, body: OnceCell::new() };
        let mut routes: Vec<String> = Vec::new();
        for rule in &self.rules {
            if rule.applies(&candidate)? && !routes.contains(&rule.route) {
                routes.push(rule.route.clone());
                if self.first_only {
                    break;
                }
            }
        }
        if routes.is_empty() {
            routes.extend(self.default.clone());
        }
        Ok(routes)
    }
}

export_router!(ContentRouter);

impl Rule {
    fn applies(&self, candidate: &Candidate<'_>) -> Result<bool, Failure> {
        for condition in &self.when {
            if !condition.holds(candidate)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl<'a> Candidate<'a> {
    fn body(&self) -> Result<&Value<'a>, Failure> {
        if let Some(body) = self.body.get() {
            return Ok(body);
        }
        let body = gristmill_json::parse(&self.message.body).map_err(|error| {
            Failure::reject(format_args!("a rule reads the body, which is not JSON: {error}"))
        })?;
        Ok(self.body.get_or_init(|| body))
    }
}
