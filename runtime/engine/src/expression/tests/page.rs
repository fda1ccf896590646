//! Every example of `docs/expressions.md` is evaluated: a line of a block marked `cel` is an expression, `// =>` and the
//! JSON that it gives, or `// error:` and a part of the failure's text.

use std::{fs, path::Path};

use super::*;

/// The blocks of the page that are marked with this word.
fn blocks(page: &str, word: &str) -> Vec<String> {
    let open = format!("\n```{word}\n");
    page.split(open.as_str())
        .skip(1)
        .map(|rest| rest.split("\n```").next().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn the_page_is_true() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/expressions.md");
    let page = fs::read_to_string(path).unwrap();
    let body = blocks(&page, "json").remove(0);
    let mut message = Message::new("7", Timestamp::from_millis(1_769_861_106_789), body.into_bytes());
    for line in blocks(&page, "http").remove(0).lines() {
        let (name, value) = line.split_once(": ").unwrap();
        message.headers_mut().append(name, value).unwrap();
    }
    let flow = flow();
    let scope = Scope::new(&message, &flow);
    let mut examples = 0;
    for line in blocks(&page, "cel").iter().flat_map(|block| block.lines()) {
        if let Some((text, wanted)) = line.split_once("// =>") {
            let wanted: serde_json::Value =
                serde_json::from_str(wanted).unwrap_or_else(|e| panic!("{line}: {e}"));
            let expression = Expression::compile(text).unwrap_or_else(|error| panic!("{line}: {error}"));
            assert_eq!(expression.evaluate_json(&scope).map_err(|f| f.to_string()), Ok(wanted), "{line}");
        } else if let Some((text, wanted)) = line.split_once("// error:") {
            let problem = match Expression::compile(text) {
                Err(error) => error.to_string(),
                Ok(expression) => expression.evaluate_json(&scope).expect_err(line).to_string(),
            };
            assert!(problem.contains(wanted.trim()), "{line}\n{problem}");
        } else {
            panic!("an example without a result: {line}");
        }
        examples += 1;
    }
    assert!(examples > 50, "{examples} examples");
    for line in blocks(&page, "text").iter().flat_map(|block| block.lines()) {
        let (text, wanted) = line.split_once("  =>  ").unwrap_or_else(|| panic!("{line}"));
        let template = Template::compile(text.trim()).unwrap_or_else(|errors| panic!("{line}: {errors:?}"));
        assert_eq!(template.render(&scope).unwrap(), wanted.trim(), "{line}");
    }
    for function in super::super::functions::FUNCTIONS {
        assert!(page.contains(function.name), "`{}` is not in the page", function.name);
    }
    assert!(page.contains(&format!("| {} million |", MAX_STEPS / 1_000_000)));
    for limit in [MAX_TEXT_BYTES / 1024, MAX_NESTING, MAX_COMPREHENSION_NESTING, MAX_RENDERED_BYTES / 1024] {
        assert!(page.contains(&format!("| {limit} ")), "the limit {limit} is not in the page");
    }
}
