//! Arithmetic, comparison and equality. They follow CEL, with one difference: JSON does not tell `10` from `10.0`, so
//! arithmetic takes numbers of different types together, and a double on either side makes a double.

use std::{cmp::Ordering, fmt};

use super::{budget::Budget, error::EvalError, value::Value};

/// An operator that makes a value of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

/// An operator that compares two values by their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// Two numbers brought to one type.
enum Numbers {
    Int(i64, i64),
    Uint(u64, u64),
    Double(f64, f64),
}

// === impl Arithmetic ===

impl fmt::Display for Arithmetic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Add => "+",
            Self::Subtract => "-",
            Self::Multiply => "*",
            Self::Divide => "/",
            Self::Remainder => "%",
        })
    }
}

impl Arithmetic {
    /// The result of `left op right`.
    pub(crate) fn apply(self, left: &Value, right: &Value, budget: &Budget) -> Result<Value, EvalError> {
        if let Some(numbers) = Numbers::of(left, right) {
            return self.numbers(numbers);
        }
        match (self, left, right) {
            (Self::Add, Value::String(a), Value::String(b)) => {
                budget.make(a.len() + b.len())?;
                Ok(Value::String([&**a, &**b].concat().into()))
            }
            (Self::Add, Value::List(a), Value::List(b)) => {
                budget.make((a.len() + b.len()) * size_of::<Value>())?;
                Ok(Value::List([&***a, &***b].concat().into()))
            }
            (Self::Add, Value::Timestamp(t), Value::Duration(d))
            | (Self::Add, Value::Duration(d), Value::Timestamp(t)) => {
                t.checked_add(*d).map(Value::Timestamp).map_err(|_| self.overflow())
            }
            (Self::Subtract, Value::Timestamp(t), Value::Duration(d)) => {
                t.checked_sub(*d).map(Value::Timestamp).map_err(|_| self.overflow())
            }
            (Self::Subtract, Value::Timestamp(a), Value::Timestamp(b)) => {
                Ok(Value::Duration(a.duration_since(*b)))
            }
            (Self::Add, Value::Duration(a), Value::Duration(b)) => {
                a.checked_add(*b).map(Value::Duration).ok_or_else(|| self.overflow())
            }
            (Self::Subtract, Value::Duration(a), Value::Duration(b)) => {
                a.checked_sub(*b).map(Value::Duration).ok_or_else(|| self.overflow())
            }
            (Self::Add, Value::String(_), other) | (Self::Add, other, Value::String(_)) => {
                Err(EvalError::unfit(format!(
                    "`+` cannot join a string and {}; convert it with `string(…)`",
                    other.noun()
                )))
            }
            _ => {
                Err(EvalError::unfit(format!("`{self}` does not take {} and {}", left.noun(), right.noun())))
            }
        }
    }

    fn numbers(self, numbers: Numbers) -> Result<Value, EvalError> {
        let by_zero = || EvalError::unfit(format!("`{self}` by zero"));
        match numbers {
            Numbers::Int(a, b) => {
                if b == 0 && matches!(self, Self::Divide | Self::Remainder) {
                    return Err(by_zero());
                }
                let result = match self {
                    Self::Add => a.checked_add(b),
                    Self::Subtract => a.checked_sub(b),
                    Self::Multiply => a.checked_mul(b),
                    Self::Divide => a.checked_div(b),
                    Self::Remainder => a.checked_rem(b),
                };
                result.map(Value::Int).ok_or_else(|| self.overflow())
            }
            Numbers::Uint(a, b) => {
                if b == 0 && matches!(self, Self::Divide | Self::Remainder) {
                    return Err(by_zero());
                }
                let result = match self {
                    Self::Add => a.checked_add(b),
                    Self::Subtract => a.checked_sub(b),
                    Self::Multiply => a.checked_mul(b),
                    Self::Divide => a.checked_div(b),
                    Self::Remainder => a.checked_rem(b),
                };
                result.map(Value::Uint).ok_or_else(|| self.overflow())
            }
            Numbers::Double(a, b) => Ok(Value::Double(match self {
                Self::Add => a + b,
                Self::Subtract => a - b,
                Self::Multiply => a * b,
                Self::Divide => a / b,
                Self::Remainder => {
                    return Err(EvalError::unfit("`%` takes whole numbers: convert with `int(…)`"));
                }
            })),
        }
    }

    fn overflow(self) -> EvalError {
        EvalError::unfit(format!("the result of `{self}` is too large"))
    }
}

impl Numbers {
    /// Both as `int` where both fit, else both as `uint` where both fit, else both as `double`; `None` when one is not
    /// a number.
    fn of(left: &Value, right: &Value) -> Option<Self> {
        Some(match (left, right) {
            (Value::Int(a), Value::Int(b)) => Self::Int(*a, *b),
            (Value::Uint(a), Value::Uint(b)) => Self::Uint(*a, *b),
            (Value::Int(a), Value::Uint(b)) => match (i64::try_from(*b), u64::try_from(*a)) {
                (Ok(b), _) => Self::Int(*a, b),
                (_, Ok(a)) => Self::Uint(a, *b),
                _ => Self::Double(*a as f64, *b as f64),
            },
            (Value::Uint(a), Value::Int(b)) => match (i64::try_from(*a), u64::try_from(*b)) {
                (Ok(a), _) => Self::Int(a, *b),
                (_, Ok(b)) => Self::Uint(*a, b),
                _ => Self::Double(*a as f64, *b as f64),
            },
            _ => Self::Double(as_double(left)?, as_double(right)?),
        })
    }
}

/// A number as the nearest double.
fn as_double(value: &Value) -> Option<f64> {
    match value {
        Value::Int(i) => Some(*i as f64),
        Value::Uint(u) => Some(*u as f64),
        Value::Double(d) => Some(*d),
        _ => None,
    }
}

/// `-value`.
pub(crate) fn negate(value: &Value) -> Result<Value, EvalError> {
    let too_large = || EvalError::unfit("the result of `-` is too large");
    match value {
        Value::Int(i) => i.checked_neg().map(Value::Int).ok_or_else(too_large),
        Value::Uint(u) => 0_i64.checked_sub_unsigned(*u).map(Value::Int).ok_or_else(too_large),
        Value::Double(d) => Ok(Value::Double(-d)),
        Value::Duration(d) => d.checked_neg().map(Value::Duration).ok_or_else(too_large),
        other => Err(EvalError::unfit(format!("`-` does not take {}", other.noun()))),
    }
}

// === impl Comparison ===

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        })
    }
}

impl Comparison {
    /// Whether `left op right`. Numbers compare by what they are worth whatever their types; not-a-number is neither
    /// less nor greater than anything.
    pub(crate) fn apply(self, left: &Value, right: &Value, budget: &Budget) -> Result<bool, EvalError> {
        let ordering = match (left, right) {
            (Value::String(a), Value::String(b)) => {
                budget.read(a.len().min(b.len()))?;
                Some(a.cmp(b))
            }
            (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
            (Value::Timestamp(a), Value::Timestamp(b)) => Some(a.cmp(b)),
            (Value::Duration(a), Value::Duration(b)) => Some(a.cmp(b)),
            _ if as_double(left).is_some() && as_double(right).is_some() => compare_numbers(left, right),
            _ => {
                return Err(EvalError::unfit(format!(
                    "`{self}` cannot compare {} with {}",
                    left.noun(),
                    right.noun()
                )));
            }
        };
        Ok(ordering.is_some_and(|ordering| match self {
            Self::Less => ordering.is_lt(),
            Self::LessOrEqual => ordering.is_le(),
            Self::Greater => ordering.is_gt(),
            Self::GreaterOrEqual => ordering.is_ge(),
        }))
    }
}

/// By worth, exactly: an integer is not rounded to a double for it. `None` for not-a-number, and for what is no number.
fn compare_numbers(left: &Value, right: &Value) -> Option<Ordering> {
    let wide = |value: &Value| match value {
        Value::Int(i) => Some(i128::from(*i)),
        Value::Uint(u) => Some(i128::from(*u)),
        _ => None,
    };
    match (left, right) {
        (Value::Double(a), Value::Double(b)) => a.partial_cmp(b),
        (Value::Double(a), b) => wide(b).and_then(|b| compare_exactly(b, *a)).map(Ordering::reverse),
        (a, Value::Double(b)) => wide(a).and_then(|a| compare_exactly(a, *b)),
        (a, b) => Some(wide(a)?.cmp(&wide(b)?)),
    }
}

/// An integer against a double.
fn compare_exactly(integer: i128, double: f64) -> Option<Ordering> {
    if double.is_nan() {
        return None;
    }
    // Infinite and huge doubles saturate far outside of what an `i64` or a `u64` holds, so the order stays right.
    let whole = double.trunc() as i128;
    Some(integer.cmp(&whole).then_with(|| 0.0.partial_cmp(&double.fract()).unwrap_or(Ordering::Equal)))
}

/// Whether the two are equal: numbers by worth, maps whatever their order, values of different types never.
pub(crate) fn equal(left: &Value, right: &Value, budget: &Budget) -> Result<bool, EvalError> {
    budget.steps(1)?;
    match (left, right) {
        (Value::Null, Value::Null) => Ok(true),
        (Value::Bool(a), Value::Bool(b)) => Ok(a == b),
        (Value::String(a), Value::String(b)) => {
            budget.read(if a.len() == b.len() { a.len() } else { 0 })?;
            Ok(a == b)
        }
        (Value::List(a), Value::List(b)) => {
            if a.len() != b.len() {
                return Ok(false);
            }
            for (a, b) in a.iter().zip(b.iter()) {
                if !equal(a, b, budget)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        (Value::Map(a), Value::Map(b)) => {
            if a.len() != b.len() {
                return Ok(false);
            }
            for (key, a) in a.iter() {
                budget.read(key.len())?;
                match b.get(key) {
                    Some(b) if equal(a, b, budget)? => {}
                    _ => return Ok(false),
                }
            }
            Ok(true)
        }
        (Value::Timestamp(a), Value::Timestamp(b)) => Ok(a == b),
        (Value::Duration(a), Value::Duration(b)) => Ok(a == b),
        (Value::Type(a), Value::Type(b)) => Ok(a == b),
        (a, b) => Ok(compare_numbers(a, b) == Some(Ordering::Equal)),
    }
}

/// `value in container`: an element of a list, or a key of a map.
pub(crate) fn contained(value: &Value, container: &Value, budget: &Budget) -> Result<bool, EvalError> {
    match container {
        Value::List(items) => {
            for item in items.iter() {
                if equal(value, item, budget)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        Value::Map(map) => match value {
            Value::String(key) => {
                budget.read(key.len())?;
                Ok(map.contains_key(key))
            }
            _ => Ok(false),
        },
        Value::String(_) => {
            Err(EvalError::unfit("`in` does not search in a string: use `text.contains(part)`".to_owned()))
        }
        other => Err(EvalError::unfit(format!("`in` wants a list or a map, not {}", other.noun()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_and_doubles_compare_by_worth() {
        let budget = Budget::new(0);
        let less = |a, b| Comparison::Less.apply(&a, &b, &budget).unwrap();
        assert!(less(Value::Int(1), Value::Double(1.5)));
        assert!(less(Value::Double(-1.5), Value::Int(-1)));
        assert!(!less(Value::Int(-1), Value::Double(-1.5)));
        assert!(less(Value::Int(i64::MAX), Value::Uint(u64::MAX)));
        // 2^53 + 1 is rounded to 2^53 as a double; by worth it is above.
        assert!(less(Value::Double(9_007_199_254_740_992.0), Value::Int(9_007_199_254_740_993)));
        assert!(less(Value::Uint(u64::MAX), Value::Double(f64::INFINITY)));
        assert!(less(Value::Double(f64::NEG_INFINITY), Value::Int(i64::MIN)));
        assert!(
            !less(Value::Double(f64::NAN), Value::Int(1)) && !less(Value::Int(1), Value::Double(f64::NAN))
        );
        assert!(equal(&Value::Int(1000), &Value::Double(1000.0), &budget).unwrap());
        assert!(!equal(&Value::Double(f64::NAN), &Value::Double(f64::NAN), &budget).unwrap());
        assert!(!equal(&Value::Int(1), &Value::from("1"), &budget).unwrap());
    }

    #[test]
    fn arithmetic_takes_mixed_numbers_and_says_when_it_overflows() {
        let budget = Budget::new(0);
        let apply = |op: Arithmetic, a, b| match op.apply(&a, &b, &budget) {
            Ok(value) => format!("{value:?}"),
            Err(EvalError::Unfit(text)) => text,
            Err(other) => panic!("{other:?}"),
        };
        assert_eq!(apply(Arithmetic::Multiply, Value::Int(10), Value::Double(1.5)), "Double(15.0)");
        assert_eq!(apply(Arithmetic::Add, Value::Int(1), Value::Uint(2)), "Int(3)");
        assert_eq!(
            apply(Arithmetic::Subtract, Value::Uint(u64::MAX), Value::Int(1)),
            "Uint(18446744073709551614)"
        );
        assert_eq!(apply(Arithmetic::Divide, Value::Int(7), Value::Int(2)), "Int(3)");
        assert!(apply(Arithmetic::Divide, Value::Int(7), Value::Int(0)).contains("by zero"));
        assert!(apply(Arithmetic::Remainder, Value::Int(i64::MIN), Value::Int(-1)).contains("too large"));
        assert!(apply(Arithmetic::Add, Value::Int(i64::MAX), Value::Int(1)).contains("too large"));
        assert!(apply(Arithmetic::Add, Value::from("a"), Value::Int(1)).contains("string(…)"));
        assert!(negate(&Value::Int(i64::MIN)).is_err());
    }
}
