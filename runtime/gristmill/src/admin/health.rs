//! `/health/ready`: whether every flow takes messages, with the reason for each that does not.

use bytes::Bytes;
use gristmill_engine::runtime::{FlowState, FlowStatus};
use http::{Response, StatusCode};
use http_body_util::Full;
use serde_json::json;

use super::{Admin, with_type};

/// 200 when every flow takes messages, 503 otherwise; `?flow=<id>` asks for one flow only.
pub(super) fn ready(admin: &Admin, query: Option<&str>) -> Response<Full<Bytes>> {
    let only = query.and_then(|q| q.split('&').find_map(|pair| pair.strip_prefix("flow=")));
    let flows: Vec<FlowStatus> = admin
        .runtime
        .status()
        .into_iter()
        .filter(|status| only.is_none_or(|only| status.flow.as_deref() == Some(only)))
        .collect();
    let draining = admin.draining.is_cancelled();
    // Before the first load there are no flows, and none that is down.
    let loading = !admin.loaded.is_cancelled();
    let is_ready = |status: &FlowStatus| matches!(status.state, FlowState::Running | FlowState::Finished);
    let unknown = !loading && only.is_some() && flows.is_empty();
    let ready = !loading && !draining && !unknown && flows.iter().all(is_ready);
    let body = json!({
        "ready": ready,
        "loading": loading,
        "draining": draining,
        "configuration_refused": admin.configuration_refused.get(),
        "flows_refused": admin.flows_refused.get(),
        "flows": flows,
    });
    let status = match (ready, unknown) {
        (true, _) => StatusCode::OK,
        (false, true) => StatusCode::NOT_FOUND,
        (false, false) => StatusCode::SERVICE_UNAVAILABLE,
    };
    with_type("application/json", status, format!("{body:#}\n"))
}
