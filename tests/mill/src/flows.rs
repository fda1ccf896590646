//! The flows that are measured.

/// Calls the plugin `bench-set-header`.
pub const WITH_PLUGIN: &str = "flow: bench
source: { memory: {} }
steps:
  - transform: { plugin: bench-set-header }
";

/// When a message of [`with_steps`] takes the first branch. The one of [`message`](crate::plugin::message) does.
pub const LARGE: &str = "size(body.lines) > 3";

/// What `x-size` is set to there.
pub const SIZE: &str = "large with ${size(body.lines)} lines";

/// What `x-customer` is set to.
pub const CUSTOMER: &str = "${body.cust.name}";

/// What `x-order` is set to.
pub const ORDER: &str = "${headers[\"x-region\"]}-${body.order_id}";

/// Has no plugin: `choice`, a `set` in its branch, `set`, `send`.
pub fn with_steps() -> String {
    format!(
        "flow: bench
source: {{ memory: {{}} }}
steps:
  - choice:
      - when: {LARGE}
        steps: [{{ set: {{ headers: {{ x-size: '{SIZE}' }} }} }}]
      - otherwise: [{{ set: {{ headers: {{ x-size: small }} }} }}]
  - set: {{ headers: {{ x-customer: '{CUSTOMER}', x-order: '{ORDER}' }} }}
  - send: {{ memory: {{}} }}
"
    )
}
