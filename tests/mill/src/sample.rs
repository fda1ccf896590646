//! The messages that the bench sends: orders as JSON, of any size, always the same ones.

use std::fmt::Write as _;

/// The numbers of orders that differ: JSON knows no zeros before a number.
const FIRST_NUMBER: usize = 100_000;
const NUMBERS: usize = 900_000;

/// Below this, in bytes, there is no room for lines.
const SMALL: usize = 100;

/// An order as a JSON object of exactly `bytes` bytes, which must be room enough for its head (64 are). It has as many
/// lines as fit, and a note that fills the rest.
pub fn order(bytes: usize) -> String {
    let head = if bytes < SMALL {
        r#"{"order_id":4711,"cust":{"name":"Ada"},"lines":["#
    } else {
        r#"{"order_id":4711,"cust":{"name":"Ada","vip":true},"lines":["#
    };
    let mut order = String::from(head);
    let tail = |note: &str| format!(r#"],"note":"{note}"}}"#);
    for number in 0.. {
        let mut line = String::new();
        let comma = if number == 0 { "" } else { "," };
        // Writing to a string does not fail.
        let _ = write!(
            line,
            r#"{comma}{{"sku":"S-{number:05}","count":{},"price":{}.5}}"#,
            number % 9 + 1,
            number % 90 + 10
        );
        if order.len() + line.len() + tail("").len() > bytes {
            break;
        }
        order.push_str(&line);
    }
    let room = bytes.saturating_sub(order.len() + tail("").len());
    order.push_str(&tail(&"x".repeat(room)));
    order
}

/// The same with a number of its own in the place of the order's, of six digits, which make it two bytes longer.
pub fn numbered_order(template: &str, number: usize) -> String {
    template.replacen("4711", &format!("{:06}", FIRST_NUMBER + number % NUMBERS), 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_json_of_the_size_that_was_asked_for() {
        for bytes in [64, 99, 100, 101, 1024, 64 * 1024] {
            let order = order(bytes);
            assert_eq!(order.len(), bytes);
            let order: serde_json::Value = serde_json::from_str(&order).unwrap();
            for (from, _) in bench_rename::RENAMES {
                assert!(order.get(from).is_some(), "{from}");
            }
        }
    }

    #[test]
    fn numbered_orders_differ_and_have_one_size() {
        let template = order(1022);
        let orders = [0, 1, NUMBERS - 1].map(|number| numbered_order(&template, number));
        assert!(orders.iter().all(|order| order.len() == 1024), "{orders:?}");
        let number =
            |order: &String| serde_json::from_str::<serde_json::Value>(order).unwrap()["order_id"].clone();
        assert_eq!(orders.each_ref().map(number), [100_000, 100_001, 999_999].map(serde_json::Value::from));
    }
}
