//! The rules of topic names and topic filters (MQTT 5.0, section 4.7; 3.1.1 has the same).

/// The longest topic, in bytes.
pub(crate) const MAX_TOPIC_BYTES: usize = 65_535;

/// What begins a subscription that several clients share (MQTT 5.0, section 4.8.2).
const SHARED: &str = "$share/";

/// Whether something can be published to this name.
///
/// # Errors
/// What is wrong, to follow "the topic".
pub(crate) fn check_name(name: &str) -> Result<(), &'static str> {
    check_text(name)?;
    if name.contains(['+', '#']) {
        return Err("holds `+` or `#`, which are wildcards of subscriptions");
    }
    if name.starts_with(SHARED) {
        return Err("begins with `$share/`, which is for subscriptions");
    }
    Ok(())
}

/// Whether one can subscribe to this filter.
///
/// # Errors
/// What is wrong, to follow "the topic filter".
pub(crate) fn check_filter(filter: &str) -> Result<(), &'static str> {
    check_text(filter)?;
    let filter = match filter.strip_prefix(SHARED) {
        Some(rest) => match rest.split_once('/') {
            Some((group, filter))
                if !group.is_empty() && !group.contains(['+', '#']) && !filter.is_empty() =>
            {
                filter
            }
            _ => return Err("is not `$share/<group>/<filter>`, with a group that has no wildcards"),
        },
        None => filter,
    };
    let levels: Vec<&str> = filter.split('/').collect();
    for (index, level) in levels.iter().enumerate() {
        if level.contains('#') && (*level != "#" || index + 1 != levels.len()) {
            return Err("has `#` elsewhere than alone in the last level");
        }
        if level.contains('+') && *level != "+" {
            return Err("has `+` in a level with something else; it stands for a whole level");
        }
    }
    Ok(())
}

fn check_text(text: &str) -> Result<(), &'static str> {
    if text.is_empty() {
        return Err("is empty");
    }
    if text.len() > MAX_TOPIC_BYTES {
        return Err("is longer than 65,535 bytes");
    }
    // NUL is forbidden; what else is control is allowed to be refused by brokers, and breaks log lines.
    if text.chars().any(char::is_control) {
        return Err("holds a control character");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_what_is_none() {
        for name in ["a", "/", "a//b", "plant/7/temperature", "$SYS/x", "ünï/cöde"] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        let long = "a".repeat(MAX_TOPIC_BYTES + 1);
        for name in ["", "a/+", "#", "a#", "a\0b", "a\nb", "$share/g/a", &long] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        assert_eq!(check_name(&long[1..]), Ok(()));
    }

    #[test]
    fn filters_are_told_from_what_is_none() {
        for filter in ["a", "#", "+", "a/#", "+/b/+", "/", "$share/g/a/#", "$SYS/#", "/+"] {
            assert_eq!(check_filter(filter), Ok(()), "{filter}");
        }
        for filter in ["", "a#", "#/a", "a/b+", "$share/a", "$share//a", "$share/g/", "$share/+/a", "a\0"] {
            assert!(check_filter(filter).is_err(), "{filter:?}");
        }
    }
}
