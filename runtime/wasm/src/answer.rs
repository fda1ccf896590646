//! What came back from a guest, held against the limits of the flow before anyone works with it.

use bytes::Bytes;
use gristmill_core::{
    limits::FlowLimits,
    message::check_header,
    plugin::{Change, Transformed},
};

use crate::{
    contract::{WitChange, WitOutcome},
    secrets::Secrets,
    text::clean,
};

/// The most routes that a router may name for one message.
const MAX_ROUTES: usize = 256;

/// The longest name of a route, in bytes.
const MAX_ROUTE_BYTES: usize = 256;

/// The longest reason for a drop and the longest text of a failure, in bytes.
pub(crate) const MAX_REASON_BYTES: usize = 4 * 1024;

/// Checks what a transformer answered. The flow's limits on the whole message are checked where the change is applied.
///
/// # Errors
/// Says what breaks the contract or which limit was passed.
pub(crate) fn check_outcome(
    outcome: WitOutcome,
    limits: &FlowLimits,
    secrets: &Secrets,
) -> Result<Transformed, String> {
    match outcome {
        WitOutcome::Change(change) => check_change(change, limits).map(Transformed::Change),
        WitOutcome::Emit(changes) => {
            if changes.is_empty() {
                return Err("the plugin emitted an empty list; to drop a message it must say `drop`".into());
            }
            over(changes.len(), limits.fan_out, "messages", "fan_out")?;
            let changes: Result<_, _> = changes.into_iter().map(|c| check_change(c, limits)).collect();
            changes.map(Transformed::Emit)
        }
        WitOutcome::Drop(reason) => {
            Ok(Transformed::Drop(clean(&secrets.redact(&reason), MAX_REASON_BYTES, false).into_owned()))
        }
    }
}

fn check_change(change: WitChange, limits: &FlowLimits) -> Result<Change, String> {
    let WitChange { mut set_headers, remove_headers, body } = change;
    over(set_headers.len(), limits.headers, "headers to set", "headers")?;
    over(remove_headers.len(), limits.headers, "headers to remove", "headers")?;
    let bytes: usize = set_headers.iter().map(|(n, v)| n.len() + v.len()).sum();
    over(bytes, limits.header_bytes, "bytes of headers to set", "header_bytes")?;
    let bytes: usize = remove_headers.iter().map(String::len).sum();
    over(bytes, limits.header_bytes, "bytes of headers to remove", "header_bytes")?;
    over(body.as_ref().map_or(0, Vec::len), limits.body_bytes, "bytes of body", "body_bytes")?;
    for (name, value) in &mut set_headers {
        name.make_ascii_lowercase();
        check_header(name, value).map_err(|e| format!("the plugin set an invalid header: {e}"))?;
    }
    Ok(Change { set_headers, remove_headers, body: body.map(Bytes::from) })
}

/// Checks what a router answered. Whether the names exist is for the flow to know.
///
/// # Errors
/// Says what breaks the contract or which limit was passed.
pub(crate) fn check_routes(routes: Vec<String>, secrets: &Secrets) -> Result<Vec<String>, String> {
    if routes.len() > MAX_ROUTES {
        return Err(format!("the plugin named {} routes, at most {MAX_ROUTES} may be", routes.len()));
    }
    for (index, route) in routes.iter().enumerate() {
        if route.is_empty() || route.len() > MAX_ROUTE_BYTES || route.chars().any(char::is_control) {
            let route = secrets.redact(route);
            return Err(format!("the plugin named a route {route:.80?}, which cannot be a name"));
        }
        if routes.iter().take(index).any(|other| other == route) {
            return Err(format!("the plugin named the route `{route}` twice"));
        }
    }
    Ok(routes)
}

fn over(is: usize, limit: usize, what: &str, name: &str) -> Result<(), String> {
    if is <= limit {
        return Ok(());
    }
    Err(format!("the plugin answered with {is} {what}; the limit is {limit} (limits.{name})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change() -> WitChange {
        WitChange { set_headers: vec![], remove_headers: vec![], body: None }
    }

    #[test]
    fn names_are_put_in_lower_case() {
        let set = WitChange { set_headers: vec![("X-A".into(), "1".into())], ..change() };
        let checked =
            check_outcome(WitOutcome::Change(set), &FlowLimits::default(), &Secrets::default()).unwrap();
        let Transformed::Change(checked) = checked else { panic!("{checked:?}") };
        assert_eq!(checked.set_headers, [("x-a".to_owned(), "1".to_owned())]);
    }

    #[test]
    fn every_limit_holds_and_has_its_name_in_the_text() {
        let limits =
            FlowLimits { headers: 2, header_bytes: 10, body_bytes: 3, fan_out: 2, ..FlowLimits::default() };
        let pair = |n: &str, v: &str| (n.to_owned(), v.to_owned());
        let header = |n: &str, v: &str| WitChange { set_headers: vec![pair(n, v)], ..change() };
        for (outcome, says) in [
            (
                WitOutcome::Change(WitChange { set_headers: vec![pair("a", ""); 3], ..change() }),
                "limits.headers",
            ),
            (
                WitOutcome::Change(WitChange { remove_headers: vec!["a".into(); 3], ..change() }),
                "limits.headers",
            ),
            (WitOutcome::Change(header("a", "0123456789")), "limits.header_bytes"),
            (WitOutcome::Change(header("a", "1\r\n2")), "invalid header"),
            (WitOutcome::Change(header("a b", "1")), "invalid header"),
            (WitOutcome::Change(WitChange { body: Some(vec![0; 4]), ..change() }), "limits.body_bytes"),
            (WitOutcome::Emit(vec![change(), change(), change()]), "limits.fan_out"),
            (WitOutcome::Emit(vec![change(), header("", "")]), "invalid header"),
            (WitOutcome::Emit(vec![]), "drop"),
        ] {
            let text = check_outcome(outcome, &limits, &Secrets::default()).unwrap_err();
            assert!(text.contains(says), "{text}");
        }
    }

    #[test]
    fn routes_are_names_without_repeats() {
        let routes = |names: &[&str]| {
            check_routes(names.iter().map(|n| (*n).to_owned()).collect(), &Secrets::default())
        };
        assert_eq!(routes(&["a", "b"]).unwrap(), ["a", "b"]);
        assert!(routes(&[]).unwrap().is_empty());
        assert!(routes(&["a", "a"]).is_err());
        assert!(routes(&[""]).is_err());
        assert!(routes(&["a\nb"]).is_err());
        assert!(routes(&["n".repeat(257).as_str()]).is_err());
        assert!(check_routes((0..257).map(|n| n.to_string()).collect(), &Secrets::default()).is_err());
    }
}
