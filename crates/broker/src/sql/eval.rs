//! Evaluation of a compiled expression on the properties of a stored message, as RocketMQ's expression classes do it: TRUE,
//! FALSE or unknown, with Java's conversions from text to numbers. Nothing is allocated; a fault means no match.

use std::cmp::Ordering;

use ferromq_protocol::properties;
use smallvec::SmallVec;

use super::{Compare, Fit, Node, Program};

/// A value at work. Texts are bytes of the message or of the expression.
#[derive(Clone, Copy, Debug)]
enum Value<'a> {
    Null,
    Bool(bool),
    Int(i32),
    Long(i64),
    Double(f64),
    Str(&'a [u8]),
}

/// Java would have thrown: the values cannot be compared, or a text is no number.
#[derive(Debug)]
struct Fault;

/// The values of an expression's properties in one message.
type Slots<'m> = SmallVec<[Option<&'m [u8]>; 16]>;

impl Program {
    /// Whether a message with these properties is wanted.
    pub(super) fn matches(&self, text: &[u8]) -> bool {
        let mut slots: Slots<'_> = SmallVec::from_elem(None, self.names.len());
        for (name, value) in properties::iter(text) {
            if let Some(at) = self.names.iter().position(|known| known.as_bytes() == name) {
                slots[at] = Some(value);
            }
        }
        matches!(self.eval(self.root, &slots), Ok(Value::Bool(true)))
    }

    fn eval<'a>(&'a self, at: u32, slots: &Slots<'a>) -> Result<Value<'a>, Fault> {
        Ok(match &self.nodes[at as usize] {
            Node::Null => Value::Null,
            Node::Bool(value) => Value::Bool(*value),
            Node::Int(value) => Value::Int(*value),
            Node::Long(value) => Value::Long(*value),
            Node::Double(value) => Value::Double(*value),
            Node::Str(text) => Value::Str(text.as_bytes()),
            Node::Property(slot) => slots[usize::from(*slot)].map_or(Value::Null, Value::Str),
            Node::Negate(operand) => match self.eval(*operand, slots)? {
                Value::Int(value) => Value::Int(value.wrapping_neg()),
                Value::Long(value) => Value::Long(value.wrapping_neg()),
                Value::Double(value) => Value::Double(-value),
                _ => Value::Null,
            },
            // A property is a text, and no text is true.
            Node::Cast(operand) => match self.eval(*operand, slots)? {
                Value::Null => Value::Null,
                _ => Value::Bool(false),
            },
            Node::Not(operand) => match self.eval(*operand, slots)? {
                Value::Bool(value) => Value::Bool(!value),
                _ => Value::Null,
            },
            Node::And(left, right) => self.logic(*left, *right, false, slots)?,
            Node::Or(left, right) => self.logic(*left, *right, true, slots)?,
            Node::Equal(left, right) => equal(self.eval(*left, slots)?, self.eval(*right, slots)?)?,
            Node::Compare(op, left, right) => {
                let left = self.eval(*left, slots)?;
                if matches!(left, Value::Null) {
                    return Ok(Value::Null);
                }
                match self.eval(*right, slots)? {
                    Value::Null => Value::Null,
                    right => Value::Bool(op.holds(compare(left, right)?)),
                }
            }
            Node::In { property, list, not } => match slots[usize::from(*property)] {
                Some(value) => Value::Bool(list.iter().any(|text| text.as_bytes() == value) != *not),
                None => Value::Null,
            },
            Node::Text { operand, fit, not, search } => match self.eval(*operand, slots)? {
                Value::Str(value) if !search.is_empty() => Value::Bool(fit.holds(value, search.as_bytes()) != *not),
                _ => Value::Bool(false),
            },
        })
    }

    /// OR for `decisive` true, AND for false: one side that is decisive decides, else one that is unknown.
    fn logic<'a>(&'a self, left: u32, right: u32, decisive: bool, slots: &Slots<'a>) -> Result<Value<'a>, Fault> {
        let left = self.eval(left, slots)?;
        if matches!(left, Value::Bool(value) if value == decisive) {
            return Ok(left);
        }
        let right = self.eval(right, slots)?;
        Ok(match (left, right) {
            (_, Value::Bool(value)) if value == decisive => right,
            (Value::Bool(_), Value::Bool(_)) => Value::Bool(!decisive),
            _ => Value::Null,
        })
    }
}

impl Compare {
    fn holds(self, order: Ordering) -> bool {
        match self {
            Compare::Greater => order.is_gt(),
            Compare::GreaterEqual => order.is_ge(),
            Compare::Less => order.is_lt(),
            Compare::LessEqual => order.is_le(),
        }
    }
}

impl Fit {
    fn holds(self, value: &[u8], search: &[u8]) -> bool {
        match self {
            Fit::Contains => memchr::memmem::find(value, search).is_some(),
            Fit::StartsWith => value.starts_with(search),
            Fit::EndsWith => value.ends_with(search),
        }
    }
}

/// `=`: unknown without a left side, false without a right side; NULL equals NULL, which is how IS NULL is made.
fn equal<'a>(left: Value<'a>, right: Value<'a>) -> Result<Value<'a>, Fault> {
    Ok(match (left, right) {
        (Value::Null, Value::Null) => Value::Bool(true),
        (Value::Null, _) => Value::Null,
        (_, Value::Null) => Value::Bool(false),
        (Value::Str(a), Value::Str(b)) => Value::Bool(a == b),
        (Value::Bool(a), Value::Bool(b)) => Value::Bool(a == b),
        // A cast that Java cannot do.
        (Value::Bool(_), Value::Str(_)) => return Err(Fault),
        (Value::Str(text), Value::Bool(b)) => Value::Bool(text.eq_ignore_ascii_case(b"true") == b),
        (Value::Bool(_), _) | (_, Value::Bool(_)) => Value::Bool(false),
        (a, b) => Value::Bool(compare(a, b)?.is_eq()),
    })
}

/// The order of two values of which none is NULL or a truth value. A text becomes a number of the other side's kind.
fn compare(left: Value<'_>, right: Value<'_>) -> Result<Ordering, Fault> {
    Ok(match (left, right) {
        (Value::Str(a), Value::Str(b)) => doubles(double(a)?, double(b)?),
        (Value::Int(a), Value::Int(b)) => a.cmp(&b),
        (Value::Int(a), Value::Long(b)) => i64::from(a).cmp(&b),
        (Value::Long(a), Value::Int(b)) => a.cmp(&i64::from(b)),
        (Value::Long(a), Value::Long(b)) => a.cmp(&b),
        (Value::Int(a), Value::Str(b)) => a.cmp(&int(b)?),
        (Value::Str(a), Value::Int(b)) => int(a)?.cmp(&b),
        (Value::Long(a), Value::Str(b)) => a.cmp(&long(b)?),
        (Value::Str(a), Value::Long(b)) => long(a)?.cmp(&b),
        (Value::Double(a), Value::Str(b)) => doubles(a, double(b)?),
        (Value::Str(a), Value::Double(b)) => doubles(double(a)?, b),
        (Value::Double(a), Value::Double(b)) => doubles(a, b),
        (Value::Double(a), Value::Int(b)) => doubles(a, f64::from(b)),
        (Value::Int(a), Value::Double(b)) => doubles(f64::from(a), b),
        (Value::Double(a), Value::Long(b)) => doubles(a, b as f64),
        (Value::Long(a), Value::Double(b)) => doubles(a as f64, b),
        _ => return Err(Fault),
    })
}

/// The order of two constants, if both are numbers.
pub(super) fn compare_numbers(left: &Node, right: &Node) -> Option<Ordering> {
    let value = |node: &Node| match node {
        Node::Int(value) => Some(Value::Int(*value)),
        Node::Long(value) => Some(Value::Long(*value)),
        Node::Double(value) => Some(Value::Double(*value)),
        _ => None,
    };
    compare(value(left)?, value(right)?).ok()
}

/// `Double.compareTo`: NaN is the greatest and equals itself, and zero has a sign.
fn doubles(a: f64, b: f64) -> Ordering {
    match (a.is_nan(), b.is_nan()) {
        (true, true) => Ordering::Equal,
        (true, false) => Ordering::Greater,
        (false, true) => Ordering::Less,
        (false, false) => a.total_cmp(&b),
    }
}

/// `Integer.valueOf`.
fn int(text: &[u8]) -> Result<i32, Fault> {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or(Fault)
}

/// `Long.valueOf`.
fn long(text: &[u8]) -> Result<i64, Fault> {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or(Fault)
}

/// `Double.valueOf`: blanks around it, a suffix, `NaN` and `Infinity` are allowed, and hexadecimal with an exponent.
fn double(text: &[u8]) -> Result<f64, Fault> {
    let text = std::str::from_utf8(text).map_err(|_| Fault)?.trim_matches(|c| c <= ' ');
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let value = match digits {
        "NaN" => f64::NAN,
        "Infinity" => f64::INFINITY,
        _ => {
            let number = digits.strip_suffix(['f', 'F', 'd', 'D']).unwrap_or(digits);
            if number.starts_with("0x") || number.starts_with("0X") {
                // The suffix could be a digit: it is none behind the exponent, which must be there.
                hexadecimal(&number[2..])?
            } else if number.starts_with(|c: char| c.is_ascii_digit() || c == '.')
                && number.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'))
            {
                number.parse().map_err(|_| Fault)?
            } else {
                return Err(Fault);
            }
        }
    };
    Ok(if negative { -value } else { value })
}

/// `1.8p-3`. Digits beyond the 15th after the first that is not 0 are cut.
fn hexadecimal(text: &str) -> Result<f64, Fault> {
    let (mantissa, exponent) = text.split_once(['p', 'P']).ok_or(Fault)?;
    let exponent: i32 = exponent.parse().map_err(|_| Fault)?;
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.is_empty() && fraction.is_empty() {
        return Err(Fault);
    }
    let (mut value, mut scale) = (0_u64, 0_i32);
    for (digit, is_fraction) in whole.chars().map(|c| (c, false)).chain(fraction.chars().map(|c| (c, true))) {
        let digit = digit.to_digit(16).ok_or(Fault)?;
        if value >> 60 == 0 {
            value = value << 4 | u64::from(digit);
            scale -= if is_fraction { 4 } else { 0 };
        } else if !is_fraction {
            scale = scale.saturating_add(4);
        }
    }
    Ok(value as f64 * 2_f64.powi(exponent.saturating_add(scale)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_become_doubles_as_in_java() {
        for (text, value) in [
            ("1", 1.0),
            (" 1.5\t", 1.5),
            ("-.5e1", -5.0),
            ("1.", 1.0),
            ("2f", 2.0),
            ("2.5D", 2.5),
            ("+Infinity", f64::INFINITY),
            ("0x1.8p1", 3.0),
            ("0xFp0f", 15.0),
        ] {
            assert_eq!(double(text.as_bytes()).ok(), Some(value), "{text}");
        }
        for text in ["", " ", "x", "inf", "nan", "infinity", "1_0", "0x10", "1e", "1 2", "--1", "+-1", ".", "1ff"] {
            assert!(double(text.as_bytes()).is_err(), "{text}");
        }
        assert!(double(b"NaN").is_ok_and(f64::is_nan));
    }

    #[test]
    fn texts_become_integers_as_in_java() {
        assert_eq!((int(b"-7").ok(), int(b"+7").ok(), int(b" 7").ok()), (Some(-7), Some(7), None));
        assert!(int(b"3000000000").is_err() && long(b"3000000000").is_ok() && long(b"1.0").is_err());
    }
}
