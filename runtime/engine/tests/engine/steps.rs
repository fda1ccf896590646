//! What each step does with a message.

use gristmill_core::{
    ErrorClass, Failure, Headers, Settlement,
    plugin::{Change, Transformed},
    sink::Answer,
    testkit::ScriptedPlugin,
};

use crate::harness::{Mill, body, class, delivered, ids, splitter};

/// A flow with these steps, which are indented by two.
async fn with(plugin: Option<ScriptedPlugin>, steps: &str) -> Mill {
    let mill = Mill::new();
    if let Some(plugin) = plugin {
        mill.plugins.save("p", plugin);
    }
    mill.run(&format!("limits: {{ fan_out: 3, body_bytes: 20, headers: 4 }}\nsteps:\n{steps}")).await;
    mill
}

const OUT: &str = "  - send: { scripted: { name: out } }\n";

#[tokio::test(start_paused = true)]
async fn transform_changes_the_message_that_the_host_holds() {
    let plugin = ScriptedPlugin::transformer(|_| {
        Ok(Transformed::Change(Change {
            set_headers: vec![("a".into(), "2".into())],
            remove_headers: vec!["b".into()],
            body: Some("new".into()),
        }))
    });
    let before = "  - set: { headers: { a: '1', b: '1', c: '1' } }\n  - transform: { plugin: p }\n";
    let mill = with(Some(plugin), &format!("{before}{OUT}")).await;
    delivered(&mill.outcome("old").await);
    let sent = &mill.sink("out").sent()[0];
    assert_eq!(sent.headers().iter().collect::<Vec<_>>(), [("c", "1"), ("a", "2")]);
    assert_eq!(&sent.body()[..], b"new");
}

#[tokio::test(start_paused = true)]
async fn transform_makes_children_that_each_go_on() {
    let mill = with(Some(splitter()), &format!("  - transform: {{ plugin: p }}\n{OUT}")).await;
    delivered(&mill.outcome("a,b,c").await);
    assert_eq!(mill.sink("out").bodies(), ["a", "b", "c"]);
    assert_eq!(ids(&mill.sink("out")), ["m0/0", "m0/1", "m0/2"]);
}

#[tokio::test(start_paused = true)]
async fn transform_drops_on_purpose_and_that_is_counted() {
    let plugin = ScriptedPlugin::transformer(|_| Ok(Transformed::Drop("not wanted".into())));
    let mill = with(Some(plugin), &format!("  - transform: {{ plugin: p }}\n{OUT}")).await;
    delivered(&mill.outcome("x").await);
    assert!(mill.sink("out").sent().is_empty());
    assert_eq!(mill.seen.count("dropped steps[0]"), 1);
}

#[tokio::test(start_paused = true)]
async fn transform_refuses_answers_that_break_the_contract_or_a_limit() {
    let long = || "x".repeat(21);
    let header = |name: &str, value: &str| Change {
        set_headers: vec![(name.into(), value.into())],
        ..Change::default()
    };
    for (answer, expected) in [
        (Transformed::Emit(vec![]), "plugin_malformed"),
        (Transformed::Emit(vec![Change::default(); 4]), "limit"),
        (Transformed::Emit(vec![body("good"), body(&long())]), "plugin_malformed"),
        (Transformed::Change(body(&long())), "plugin_malformed"),
        (Transformed::Change(header("a b", "1")), "plugin_malformed"),
        (Transformed::Change(header("a", "1\r\nb: 2")), "plugin_malformed"),
    ] {
        let shown = format!("{answer:?}");
        let plugin = ScriptedPlugin::transformer(move |_| Ok(answer.clone()));
        let mill = with(Some(plugin), &format!("  - transform: {{ plugin: p }}\n{OUT}")).await;
        let outcome = mill.outcome("x").await;
        assert_eq!((outcome.settlement, class(&outcome)), (Settlement::Rejected, expected), "{shown}");
        assert!(mill.sink("out").sent().is_empty(), "part of a refused answer went on: {shown}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_plugins_failure_is_the_messages() {
    for (failure, settlement) in [
        (Failure::new(ErrorClass::PluginRejected, "never"), Settlement::Rejected),
        (Failure::new(ErrorClass::PluginTrap, "unreachable"), Settlement::Rejected),
        (Failure::new(ErrorClass::PluginRetry, "later"), Settlement::Released),
        (Failure::new(ErrorClass::PluginTimeout, "slow"), Settlement::Released),
    ] {
        let expected = failure.class().name();
        let plugin = crate::harness::failing(failure);
        let mill = with(Some(plugin), "  - transform: { plugin: p }\n").await;
        let outcome = mill.outcome("x").await;
        assert_eq!((outcome.settlement, class(&outcome)), (settlement, expected));
    }
}

/// A router that names what the body lists, over three branches and an `otherwise`.
async fn routed(otherwise: bool) -> Mill {
    let router = ScriptedPlugin::router(|message| {
        let names = crate::harness::text(message);
        Ok(names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect())
    });
    let branch = |name: &str| {
        format!(
            "[{{ set: {{ headers: {{ taken: {name} }} }} }}, {{ send: {{ scripted: {{ name: branches, text: '${{headers.taken}}' }} }} }}]"
        )
    };
    let mut steps = String::from("  - route:\n      plugin: p\n      branches:\n");
    for name in ["a", "b", "c"] {
        steps += &format!("        {name}: {}\n", branch(name));
    }
    if otherwise {
        steps += &format!("      otherwise: {}\n", branch("otherwise"));
    }
    with(Some(router), &format!("{steps}{OUT}")).await
}

#[tokio::test(start_paused = true)]
async fn route_gives_a_copy_to_each_branch_and_goes_on_as_it_was() {
    let mill = routed(true).await;
    delivered(&mill.outcome("c,a,c").await);
    assert_eq!(mill.sink("branches").texts(), ["a", "c"], "each once, in the order of the file");
    let main = mill.sink("out").sent();
    assert_eq!(main.len(), 1);
    assert!(main[0].headers().is_empty(), "what a branch does stays in it");
    delivered(&mill.outcome("").await);
    assert_eq!(mill.sink("branches").texts(), ["a", "c", "otherwise"]);
}

#[tokio::test(start_paused = true)]
async fn route_refuses_routes_that_are_none() {
    let mill = routed(false).await;
    for (routes, expected) in [("a,nope", "no_branch"), ("", "no_branch")] {
        let outcome = mill.outcome(routes).await;
        assert_eq!((outcome.settlement, class(&outcome)), (Settlement::Rejected, expected), "{routes}");
    }
    assert!(mill.sink("branches").sent().is_empty(), "a known route beside an unknown one was taken");
}

#[tokio::test(start_paused = true)]
async fn choice_takes_the_first_branch_that_fits_and_comes_back() {
    let branches = "  - choice:
      - when: body.n > 10
        steps: [{ set: { headers: { size: large } } }]
      - when: body.n > 5
        steps: [{ set: { headers: { size: middle } } }]
";
    let out = "  - send: { scripted: { name: out, text: '${headers.size}' } }\n";
    let mill = with(None, &format!("{branches}{out}")).await;
    delivered(&mill.outcome("{\"n\":11}").await);
    delivered(&mill.outcome("{\"n\":6}").await);
    assert_eq!(mill.sink("out").texts(), ["large", "middle"]);
    assert_eq!(class(&mill.outcome("{\"n\":1}").await), "no_branch");
    assert_eq!(class(&mill.outcome("{\"m\":1}").await), "expression");
    assert_eq!(class(&mill.outcome("<n>1</n>").await), "body_format");
    let otherwise = "      - otherwise: [{ set: { headers: { size: small } } }]\n";
    let mill = with(None, &format!("{branches}{otherwise}{out}")).await;
    delivered(&mill.outcome("{\"n\":1}").await);
    assert_eq!(mill.sink("out").texts(), ["small"]);
}

#[tokio::test(start_paused = true)]
async fn filter_drops_what_does_not_pass_and_counts_it() {
    let mill = with(None, &format!("  - filter: {{ keep: body.keep }}\n{OUT}")).await;
    delivered(&mill.outcome("{\"keep\":true}").await);
    delivered(&mill.outcome("{\"keep\":false}").await);
    assert_eq!(mill.sink("out").sent().len(), 1);
    assert_eq!(mill.seen.count("dropped steps[0]"), 1);
    let outcome = mill.outcome("{\"keep\":1}").await;
    assert_eq!((outcome.settlement, class(&outcome)), (Settlement::Rejected, "expression"));
}

#[tokio::test(start_paused = true)]
async fn set_reads_the_message_as_it_came_in() {
    let steps = "  - set: { headers: { a: '1', b: gone } }
  - set:
      remove_headers: [b]
      headers: { a: '${int(headers.a) + 1}', was: '${headers.b}' }
      body: { expression: '{\"n\": body.n + 1}' }
  - set: { body: { text: 'n=${body.n}' } }
";
    let mill = with(None, &format!("{steps}{OUT}")).await;
    delivered(&mill.outcome("{\"n\":1}").await);
    let sent = &mill.sink("out").sent()[0];
    assert_eq!(sent.headers().iter().collect::<Vec<_>>(), [("a", "2"), ("was", "gone")]);
    assert_eq!(&sent.body()[..], b"n=2");
}

#[tokio::test(start_paused = true)]
async fn set_keeps_the_limits_and_what_a_header_may_hold() {
    let mill = with(None, "  - set: { headers: { a: '${message.text}' } }\n").await;
    assert_eq!(class(&mill.outcome("two\nlines").await), "expression");
    let mill = with(None, "  - set: { body: { text: '${message.text}${message.text}' } }\n").await;
    assert_eq!(class(&mill.outcome("eleven byte").await), "limit");
    let five = "  - set: { headers: { a: '1', b: '1', c: '1', d: '1', e: '1' } }\n";
    assert_eq!(class(&with(None, five).await.outcome("x").await), "limit");
}

#[tokio::test(start_paused = true)]
async fn send_renders_its_texts_and_leaves_the_message_as_it_is() {
    let steps = "  - send: { scripted: { name: first, text: '${message.id} of ${flow.id}' } }\n";
    let mill = with(None, &format!("{steps}{OUT}")).await;
    mill.sink("first").answer([Ok(Answer { body: "an answer".into(), ..Answer::default() })]);
    delivered(&mill.outcome("x").await);
    assert_eq!(mill.sink("first").texts(), ["m0 of f"]);
    assert_eq!(mill.sink("out").bodies(), ["x"]);
}

#[tokio::test(start_paused = true)]
async fn call_takes_the_answer_as_the_message() {
    let steps = "  - set: { headers: { a: '1', b: '1' } }\n  - call: { scripted: { name: service } }\n";
    let mill = with(None, &format!("{steps}{OUT}")).await;
    let mut headers = Headers::new();
    for (name, value) in [("a", "2"), ("a", "3")] {
        headers.append(name, value).unwrap();
    }
    mill.sink("service").answer([Ok(Answer { headers, body: "answer".into() })]);
    delivered(&mill.outcome("question").await);
    let sent = &mill.sink("out").sent()[0];
    assert_eq!(sent.headers().iter().collect::<Vec<_>>(), [("b", "1"), ("a", "2"), ("a", "3")]);
    assert_eq!(&sent.body()[..], b"answer");
    mill.sink("service").answer([Ok(Answer { body: vec![b'x'; 21].into(), ..Answer::default() })]);
    assert_eq!(class(&mill.outcome("question").await), "limit");
}

#[tokio::test(start_paused = true)]
async fn the_last_reply_is_the_one_that_is_given_at_settlement() {
    let steps = "  - reply: { status: 200 }
  - reply:
      status: 201
      headers: { x-flow: '${flow.id}' }
      body: { expression: '{\"got\": message.text}' }
";
    let mill = with(None, &format!("{steps}{OUT}")).await;
    mill.sink("out").close();
    let mut waiting = mill.source().offer_once("x");
    mill.sink("out").reached(1).await;
    assert!(waiting.is_pending(), "answered before the delivery has settled");
    mill.sink("out").open();
    let reply = waiting.outcome().await.reply.unwrap();
    assert_eq!((reply.status, reply.headers.get("x-flow")), (Some(201), Some("f")));
    assert_eq!(&reply.body[..], b"{\"got\":\"x\"}");
}

#[tokio::test(start_paused = true)]
async fn without_a_reply_step_nothing_is_echoed() {
    let mill = with(None, OUT).await;
    assert_eq!(mill.outcome("x").await.reply, None);
}

#[tokio::test(start_paused = true)]
async fn log_lets_the_message_on_and_fails_it_when_its_text_does() {
    let mill = with(None, &format!("  - log: {{ text: 'n is ${{body.n}}', level: warn }}\n{OUT}")).await;
    delivered(&mill.outcome("{\"n\":1}").await);
    assert_eq!(mill.sink("out").bodies(), ["{\"n\":1}"]);
    assert_eq!(class(&mill.outcome("{}").await), "expression");
}

#[tokio::test(start_paused = true)]
async fn a_flow_without_steps_delivers() {
    let mill = Mill::running("steps: []\n").await;
    delivered(&mill.outcome("x").await);
    assert_eq!((mill.seen.count("accepted"), mill.seen.count("settled delivered")), (1, 1));
}
